"""Run a function on N ranks of this machine: torch is imported once, in the parent, and every case forks fresh children from it.

Each case has its own store on a port the system chose, a time limit, and leaves no process and no file behind: its ranks die with their
parent, whatever ends that. If ranks fail, the error shows the traceback of the rank that failed first: the others usually only report
that they lost their peer. What the ranks return comes through a pipe from children that this process forked itself.
"""

import faulthandler
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing import connection, get_context
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.distributed.tensor  # torch.testing imports it late: 2 s in every child if not here, once

from .parent_death import die_with_parent

_GRACE = 2.0  # seconds the other ranks get to end by themselves after one failed
_PATIENCE = timedelta(minutes=30)  # of a collective, where the case has no time limit
_LAST_WORDS = 4000  # characters of what silent ranks printed, shown when one fails


class RankError(AssertionError):
    """A rank failed, died or ran out of time.

    Args:
        text: the first failure in full, the others by their last line.
        cause: the last line of the first failure.
        told: what that failure tells the user, if it was made for one: exit_code, what, do, file.
    """

    def __init__(self, text: str, cause: str, told: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.cause = cause
        self.exit_code, self.what, self.do, self.file = ((told or {}).get(key) for key in ("exit_code", "what", "do", "file"))


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float | None = 60.0,
              quiet: bool = False, backend: str = "gloo") -> list[Any]:
    """`function(rank, *arguments)` on `world_size` forked ranks with gloo initialised; their results in rank order.

    Args:
        function: any function, also a closure; what it returns must pickle (tensors come back as copies).
        world_size: number of ranks.
        arguments: passed on, shared by copy-on-write.
        timeout: seconds for the whole case; None: no limit.
        quiet: what the ranks print is shown only if one fails.
        backend: of torch.distributed.

    Raises:
        RankError: with the traceback of the first rank that failed.
    """
    with ForkedRanks(function, world_size, *arguments, timeout=timeout, quiet=quiet, backend=backend) as case:
        while not case.finished:
            wait_for_any([case])
        return case.results()


class ForkedRanks:
    """A case under way, for whoever runs several at once: start it with `with`, `wait_for_any` until `.finished`, take `.results()`.

    Args: as `run_ranks`.
    """

    def __init__(self, function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float | None = 60.0,
                 quiet: bool = False, backend: str = "gloo") -> None:
        self._function, self._arguments, self._world_size = function, arguments, world_size
        self._timeout, self._quiet, self._backend = timeout, quiet, backend
        self._deadline = float("inf")
        self._children: list[Any] = []
        self._waiting: dict[int, Any] = {}
        self._found: dict[int, Any] = {}
        self._failures: list[tuple[str, dict[str, Any] | None]] = []
        self._output: IO[bytes] | None = None

    def __enter__(self) -> "ForkedRanks":
        # rank 0 serves the store on this socket: a server thread here could hold a lock just as a child is forked
        listener = socket.create_server(("127.0.0.1", 0), backlog=self._world_size)
        self._output = tempfile.TemporaryFile() if self._quiet else None  # noqa: SIM115  (closed in __exit__; it has no name to remove)
        self._deadline = time.monotonic() + (float("inf") if self._timeout is None else self._timeout)
        fork = get_context("fork")
        sys.stdout.flush()  # or each child would print it again
        sys.stderr.flush()
        try:
            for rank in range(self._world_size):
                reader, writer = fork.Pipe(duplex=False)
                child = fork.Process(target=self._rank, args=(rank, writer, listener, os.getpid()))
                child.start()
                writer.close()
                self._waiting[rank] = reader
                self._children.append(child)
        except BaseException:
            self.__exit__()
            raise
        finally:
            listener.close()
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.join()
        for reader in self._waiting.values():
            reader.close()
        self._waiting = {}
        if self._output is not None:
            self._output.close()

    @property
    def finished(self) -> bool:
        """Whether every rank has reported, or the case is given up."""
        return not self._waiting or time.monotonic() >= self._deadline

    @property
    def readers(self) -> list[Any]:
        """What still can bring news."""
        return list(self._waiting.values())

    @property
    def seconds_left(self) -> float:
        """Until the case is given up."""
        return max(0.0, self._deadline - time.monotonic())

    def receive(self, ready: Sequence[Any]) -> None:
        """Take what arrived on some of `readers`."""
        for rank in [r for r, reader in self._waiting.items() if reader in ready]:
            reader = self._waiting.pop(rank)
            try:
                healthy, value = reader.recv()
            except (EOFError, OSError):
                self._children[rank].join(_GRACE)
                healthy, value = False, (f"rank {rank} died with exit code {self._children[rank].exitcode}", None)
            finally:
                reader.close()
            if healthy:
                self._found[rank] = value
            else:
                self._failures.append(value)
                self._deadline = min(self._deadline, time.monotonic() + _GRACE)

    def results(self) -> list[Any]:
        """In rank order, of a finished case.

        Raises:
            RankError: a rank failed, died, or did not finish in time.
        """
        if self._waiting and not self._failures:
            self._failures.append((f"ranks {sorted(self._waiting)} did not finish within {self._timeout:.0f} s", None))
        if self._failures:
            (first, told), *later = self._failures
            texts = [first, *(f"(later) {text.splitlines()[-1]}" for text, _ in later), *self._last_words()]
            raise RankError("\n\n".join(texts), first.splitlines()[-1], told)
        return [self._found[rank] for rank in range(self._world_size)]

    def _last_words(self) -> list[str]:
        if self._output is None:
            return []
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")[-_LAST_WORDS:].strip()
        return [f"what the ranks printed:\n{text}"] if text else []

    def _rank(self, rank: int, writer: Any, listener: socket.socket, parent: int) -> None:
        """The life of one child."""
        try:
            die_with_parent(parent)
            faulthandler.enable(open(2, "w", closefd=False))  # noqa: SIM115  (a crash in C++ tells where)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent ends the case
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._turn_output_aside()
            torch.set_num_threads(1)  # a forked OpenMP pool would hang
            self._join(rank, listener)
            writer.send_bytes(pickle.dumps((True, self._function(rank, *self._arguments))))
            dist.barrier()  # nobody leaves while a peer still talks to it
            dist.destroy_process_group()
        except BaseException as error:
            writer.send_bytes(pickle.dumps((False, (f"rank {rank} failed:\n{traceback.format_exc().strip()}", _told(error)))))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _turn_output_aside(self) -> None:
        """What this rank prints goes into the case's file, also from C++ and from programs that it starts."""
        if self._output is not None:
            os.dup2(self._output.fileno(), 1)
            os.dup2(self._output.fileno(), 2)
            sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  (lives as long as the process)

    def _join(self, rank: int, listener: socket.socket) -> None:
        """Joins the case's process group."""
        world_size, port = self._world_size, listener.getsockname()[1]
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
                          LOCAL_WORLD_SIZE=str(world_size), GLOO_SOCKET_IFNAME="lo")
        limit = _PATIENCE if self._timeout is None else timedelta(seconds=self._timeout)
        if rank == 0:
            store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=limit,
                                  master_listen_fd=listener.detach())
        else:
            listener.close()  # or the port would outlive rank 0
            store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
        dist.init_process_group(self._backend, store=store, rank=rank, world_size=world_size, timeout=limit)


def _told(error: BaseException) -> dict[str, Any] | None:
    """What an error says to the user; as plain values, because not every error survives a pickle."""
    code = getattr(error, "exit_code", None)
    if not isinstance(code, int):
        return None
    file = getattr(error, "file", None)
    return {"exit_code": code, "what": str(getattr(error, "what", error)), "do": str(getattr(error, "do", "")), "file": file and str(file)}


def wait_for_any(cases: Sequence[ForkedRanks]) -> None:
    """Sleep until a rank of some unfinished case reports, or a case's time is up."""
    under_way = [case for case in cases if not case.finished]
    if not under_way:
        return
    limit = min(case.seconds_left for case in under_way)
    ready = connection.wait([reader for case in under_way for reader in case.readers], None if limit == float("inf") else limit)
    for case in under_way:
        case.receive(ready)
