"""Worker processes that answer in order.

Not multiprocessing's pools: their queues leave named semaphores in /dev/shm when everything is killed, and a pool of forks is not safe
beside threads. Here each worker is a fresh interpreter on the other end of one pipe, so there is nothing that could be left behind:
when the parent goes, its pipes close and the workers end; when a worker goes, its pipe closes and the parent raises.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..errors import DataError

_AHEAD = 4  # items for each worker: it has some left while the parent waits for the disk
T = TypeVar("T")
R = TypeVar("R")


class WorkerDied(DataError):
    """A worker process ended that nobody had told to."""


class Workers(Generic[T, R]):
    """Processes that each hold one task, a function of an item; use it as a context manager.

    Args:
        count: processes.
        make: called once in each process, gives the task; it and the items travel pickled.
    """

    def __init__(self, count: int, make: Callable[[], Callable[[T], R]]) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count)  # one waits on each busy worker
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._failure: Future[None] = Future()
        self._workers = [_Worker() for _ in range(count)]
        try:
            for worker in self._workers:
                worker.send(make)
                self._idle.put(worker)
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def ordered(self, items: Iterable[tuple[T, int]], *, most: int) -> Iterator[R]:
        """The results in the order of the items; takes only as many items ahead as keep every worker busy.

        Args:
            items: each with its weight.
            most: weight that may be taken ahead; a single heavier item is taken when nothing else is.

        Raises:
            WorkerDied: noticed at once, also while an earlier item is still worked on.
        """
        pending: deque[tuple[Future[R], int]] = deque()
        taken = 0
        for item, weight in items:
            pending.append((self._threads.submit(self._call, [item]), weight))
            del item  # what waits here for the next one is not held twice
            taken += weight
            while len(pending) > _AHEAD * self._count or taken > most:
                future, released = pending.popleft()
                taken -= released
                yield self._result(future)
        while pending:
            yield self._result(pending.popleft()[0])

    def _call(self, box: list[T]) -> R:
        """`box` holds the item alone, so that it is not kept here while the worker has it."""
        worker = self._idle.get()
        try:
            worker.send(box.pop())
            return worker.answer()
        except Exception as error:
            with suppress(InvalidStateError):  # another worker may have failed first; then that error is the cause
                self._failure.set_exception(error)
            raise
        finally:
            self._idle.put(worker)

    def _stop(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)  # those that waited on a worker see its end
        for worker in self._workers:
            worker.close()

    def _result(self, future: Future[R]) -> R:
        either: list[Future[Any]] = [future, self._failure]
        wait(either, return_when=FIRST_COMPLETED)
        if self._failure.done():
            self._failure.result()
        return future.result()


class _Worker:
    """The parent's end of one process."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # stdin is never written: it closes when we end, however we end, and so ends the worker.
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
        theirs.close()

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._death() from error

    def answer(self) -> Any:
        try:
            failed, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if failed and isinstance(answer, DataError):
            raise answer
        if failed:
            raise RuntimeError(f"a worker process failed:\n{answer}")
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._connection.close()

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        way = "see whether memory ran out (dmesg), then run again with fewer workers"
        return WorkerDied(f"worker process {self._process.pid} {how}", do=way)


def _serve(connection: Connection) -> None:
    """The life of a worker: make the task, then answer one item after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The processes are the parallelism: threads of the tokenizers library inside each would only take turns.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        failed, task = _answer(lambda make: make(), connection.recv())
        while True:
            item = connection.recv()
            connection.send((True, task) if failed else _answer(task, item))
    os._exit(0)  # the thread on stdin would make the interpreter abort


def _answer(task: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return False, task(item)
    except DataError as error:
        return True, error
    except Exception:  # whatever it was, the parent must hear of it; an exception itself may not survive pickling
        return True, traceback.format_exc()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
