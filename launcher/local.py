"""`hexareme train cluster=local`: all ranks of one machine, started and ended together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import Preempted
from .environment import free_port
from .outcome import SIGNAL_CODE, ExitFile
from .processes import adopt_orphans, end_descendants, reap
from .vigil import watched_signals

PROGRAM = Path(__file__).with_name("train.py")
# Starts one watcher on these overrides, in this environment; its process id.
StartFunction = Callable[[Sequence[str], Mapping[str, str]], int]
STOP_SECONDS = 10.0  # for the other ranks to end after the first failure
PREEMPTED_SECONDS = 60.0  # a rank that saved and left is no failure: the others have saved too and are on their way out
LOOK_SECONDS = 1.0


def start_program(overrides: Sequence[str], variables: Mapping[str, str]) -> int:
    """One watcher in a fresh interpreter."""
    return subprocess.Popen([sys.executable, str(PROGRAM), *overrides], env=dict(variables)).pid


def start_local(overrides: Sequence[str], *, ranks: int, directory: Path, start: StartFunction = start_program) -> int:
    """Starts one watcher for each rank and stays until the last has ended.

    Args:
        overrides: of the run, validated already.
        ranks: how many.
        directory: of the run; its `exit.json` names the first cause.
        start: starts one watcher as a child of this process.

    Returns:
        The exit code of the first cause; 0 only if every rank ended with 0.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
    adopt_orphans()  # a watcher that is killed leaves its rank to us
    port = free_port()
    processes = [start(overrides, rank_variables(os.environ, rank, ranks, port)) for rank in range(ranks)]
    codes = Crew(processes).wait()
    end_descendants(patience_seconds=STOP_SECONDS)
    failed = [code for code in codes if code != 0]
    if not failed:
        return 0
    first = ExitFile(directory).read() or {}
    named = first.get("code")
    return named if isinstance(named, int) and named in failed else failed[0]


def rank_variables(variables: Mapping[str, str], rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of one rank, in PyTorch's names; HEXAREME_PARENT lets it notice that we died before it could look."""
    return dict(variables) | {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HEXAREME_PARENT": str(os.getpid()),
    }


class Crew:
    """The watchers of one machine: signals go to all of them, and the first failure ends the others.

    Args:
        processes: process ids, children of this process.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self._running = set(processes)
        self._deadline: float | None = None

    def wait(self) -> list[int]:
        """The exit codes in the order in which the watchers ended."""
        codes: list[int] = []
        watched = watched_signals()
        while self._running:
            caught = signal.sigtimedwait(watched, LOOK_SECONDS)
            if caught is not None and caught.si_signo != signal.SIGCHLD:
                self._send(caught.si_signo)
            for process, status in reap().items():
                if process in self._running:
                    self._running.remove(process)
                    codes.append(exit_code(status))
                    self._after(codes[-1])
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._send(signal.SIGKILL)
        return codes

    def _after(self, code: int) -> None:
        if code == 0 or self._deadline is not None:
            return
        preempted = code == Preempted.exit_code
        self._deadline = time.monotonic() + (PREEMPTED_SECONDS if preempted else STOP_SECONDS)
        if not preempted:
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                os.kill(process, number)


def exit_code(status: int) -> int:
    """128 + n for a death by signal n, as a shell says it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else SIGNAL_CODE - code
