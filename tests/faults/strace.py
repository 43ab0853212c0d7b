"""System calls of a live process, seen and struck by strace from outside: saves are killed at any of them with no hook in our code."""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest
from hexareme.core.trainer import Trainer

from tests.launcher.processes import wait_until

from .rig import Start

# What may change a disk, and every open.
CALLS = ("openat", "mkdir", "mkdirat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link",
         "symlink", "unlink", "unlinkat", "rmdir")
_STARTED = re.compile(r"(?:(\d+) +)?(\w+)\((.*)")
_PATHS = re.compile(r"\d+<(/[^>]*)>|\"([^\"]*)\"")
_TOKEN = re.compile(r"(\.step-\d+)\.[0-9a-f]+\.")  # a random part of a name


@dataclass(frozen=True, slots=True)
class Call:
    """One system call.

    Args:
        thread: that made it; 0 where only one was traced.
        name: of the call.
        number: which call of this name of this thread it is, from 1 on, as in strace's `when=`.
        what: the files it is about, without the random parts of names.
        arguments: as strace prints them.
    """

    thread: int
    name: str
    number: int
    what: str
    arguments: str

    def __str__(self) -> str:
        return f"{self.name} {self.number} {self.what}"


def parse(trace: str) -> list[Call]:
    """The calls of a trace, in the order in which they began."""
    counts: Counter[tuple[int, str]] = Counter()
    calls = []
    for line in trace.splitlines():
        started = _STARTED.match(line)
        if started is None:
            continue  # a signal, the end of a call that was interrupted, an exit
        thread, name, arguments = int(started[1] or 0), started[2], started[3]
        counts[thread, name] += 1
        calls.append(Call(thread, name, counts[thread, name], _files(name, arguments), arguments))
    return calls


def _files(name: str, arguments: str) -> str:
    paths = [opened or named for opened, named in _PATHS.findall(arguments.rpartition(" = ")[0] or arguments)]
    if name in ("write", "pwrite64"):
        paths = paths[:1]  # the second is content
    if name in ("openat", "unlinkat") and len(paths) > 1 and not paths[1].startswith("/"):
        paths = [f"{paths[0]}/{paths[1]}"]
    return _TOKEN.sub(r"\1.", " -> ".join(paths))


class Tracer:
    """strace, attached to threads that run already; no thread but these is traced.

    Args:
        threads: thread ids; that of a process means its main thread.
        log: where the trace goes.
        options: of strace, beside the calls of `CALLS` with the paths of their descriptors.
    """

    def __init__(self, threads: Iterable[int], log: Path, *options: str) -> None:
        self.log, self.threads = log, list(threads)
        targets = [word for thread in self.threads for word in ("-p", str(thread))]
        command = ["strace", "-qq", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *options, *targets]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: self._process.poll() is not None or all(map(traced, self.threads)), 20)
        if self._process.poll() is not None:
            pytest.fail(f"strace ended: {self._process.communicate()[1]}")

    @classmethod
    def stopping(cls, thread: int, log: Path, name: str) -> "Tracer":
        """SIGSTOP for the whole process after each call of a name, before it does anything else."""
        return cls([thread], log, "-e", f"inject={name}:signal=STOP")

    @classmethod
    def killing(cls, thread: int, log: Path, call: Call) -> "Tracer":
        """SIGKILL at a call, which is then not made."""
        return cls([thread], log, "-e", f"inject={call.name}:signal=KILL:when={call.number}")

    def text(self) -> str:
        """The trace so far."""
        return self.log.read_text() if self.log.exists() else ""

    def calls(self) -> list[Call]:
        """The calls so far."""
        return parse(self.text())

    def await_stop(self, wanted: Callable[[Call], bool], gone: Callable[[], bool]) -> None:
        """Until the process stands still after a call that is wanted; from the others it goes on.

        Args:
            wanted: whether it is this call.
            gone: whether the run has ended.
        """
        stops = 0
        while True:
            stops += 1
            wait_until(lambda: self.text().count("stopped by SIGSTOP") >= stops or gone(), 60)  # noqa: B023
            assert not gone(), f"it never came there:\n{self.text()[-2000:]}"
            if wanted(self.calls()[-1]):
                return
            os.kill(self.threads[0], signal.SIGCONT)

    def close(self) -> None:
        """Detached from what still lives."""
        self._process.terminate()
        self._process.communicate(timeout=20)

    def wait(self) -> None:
        """Until all that it traced has ended."""
        self._process.communicate(timeout=60)


def traced(thread: int) -> bool:
    """Whether strace is attached to a thread."""
    try:
        return re.search(r"TracerPid:\t[1-9]", Path(f"/proc/{thread}/status").read_text()) is not None
    except OSError:
        return False


@dataclass(frozen=True)
class Hold:
    """Makes every rank wait before the save of a step, when the save before it is settled, so that strace can be attached.

    Args:
        folder: of the test; no other test uses it.
        step: whose save.
    """

    folder: Path
    step: int

    def prepare(self) -> None:
        """In the front end, before the ranks are forked."""
        save = Trainer.save

        def held(trainer: Trainer, **options: bool) -> None:
            if trainer.progress.step == self.step:
                trainer.saver.settle()
                self._mark(trainer.context.rank).touch()
                while not self._go.exists():
                    sleep(0.002)
            save(trainer, **options)

        Trainer.save = held

    @property
    def _go(self) -> Path:
        return self.folder / f"go-{self.step}"

    def _mark(self, rank: int) -> Path:
        return self.folder / f"held-{self.step}-{rank}"

    def wait(self, start: Start) -> None:
        """Until all ranks stand there."""
        wait_until(lambda: start.ended() or all(self._mark(rank).exists() for rank in range(start.ranks)), 90)
        assert not start.ended(), f"the run ended before the save:\n{start.text()}"

    def release(self) -> None:
        """They go on."""
        self._go.touch()
