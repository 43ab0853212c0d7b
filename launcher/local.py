"""`hexareme train cluster=local`: all ranks of one machine, started and ended together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from ..core.errors import Preempted
from .environment import digest
from .folder.membership import Membership
from .outcome import IN_USE_CODE, ExitFile, Outcome, last_step, outcome_of_status
from .processes import adopt_orphans, end_descendants, exit_code, reap
from .watch.memory_limit import MemoryWatch
from .watch.vigil import next_signal, watched_signals

PROGRAM = Path(__file__).with_name("train.py")
# Starts one watcher on these overrides, in this environment; its process id.
StartFunction = Callable[[Sequence[str], Mapping[str, str]], int]
STOP_SECONDS = 10.0  # for the other ranks to end after the first failure
PREEMPTED_SECONDS = 60.0  # a rank that saved and left is no failure: the others have saved too and are on their way out
LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How one start of all ranks ended.

    Args:
        code: of the first cause; 0 only if every rank ended with 0.
        asked: the first signal that somebody sent to this process meanwhile; None where nobody did.
        cause: what `exit.json` says of it, or what can be said without.
    """

    code: int
    asked: signal.Signals | None
    cause: Mapping[str, Any]


def start_program(overrides: Sequence[str], variables: Mapping[str, str]) -> int:
    """One watcher in a fresh interpreter."""
    listener = [int(variables["HEXAREME_LISTENER"])] if "HEXAREME_LISTENER" in variables else []
    return subprocess.Popen([sys.executable, str(PROGRAM), *overrides], env=dict(variables), pass_fds=listener).pid


def start_local(overrides: Sequence[str], *, ranks: int, directory: Path, start: StartFunction = start_program) -> int:
    """Starts the ranks once; the exit code of the first cause. Arguments as `attempt`."""
    return attempt(overrides, ranks=ranks, directory=directory, start=start).code


def attempt(overrides: Sequence[str], *, ranks: int, directory: Path, start: StartFunction = start_program) -> Attempt:
    """Starts one watcher for each rank and stays until the last process has ended.

    Args:
        overrides: of the run, validated already.
        ranks: how many.
        directory: of the run; its `exit.json` names the first cause.
        start: starts one watcher as a child of this process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
    adopt_orphans()  # a watcher that is killed leaves its rank to us
    token = token_hex(8)
    crew = Crew(start_ranks(overrides, ranks, start, token=token), directory, membership=Membership(digest(token)))
    codes = crew.wait()
    end_descendants(patience_seconds=STOP_SECONDS)
    failed = [code for code in codes if code != 0]
    first = ExitFile(directory).read() or {}
    if not failed:
        return Attempt(code=0, asked=crew.asked, cause=first)
    if IN_USE_CODE in failed:  # what exit.json says is of somebody else
        return Attempt(code=IN_USE_CODE, asked=crew.asked, cause={"code": IN_USE_CODE, "reason": "folder_in_use", "rank": 0})
    if crew.spoken is not None and crew.asked is None and first.get("code") == Preempted.exit_code:
        ExitFile(directory).correct(crew.spoken)  # a rank that we stopped ourselves, before the folder was ours to write the cause
        return Attempt(code=crew.spoken.code, asked=None, cause=asdict(crew.spoken))
    if first.get("code") in failed:
        return Attempt(code=first["code"], asked=crew.asked, cause=first)
    return Attempt(code=failed[0], asked=crew.asked, cause={"code": failed[0], "reason": "error", "step": last_step(directory)})


def start_ranks(overrides: Sequence[str], ranks: int, start: StartFunction, *, token: str) -> list[int]:
    """The process ids of the watchers, in the order of ranks. Rank 0 inherits the socket on which it listens: nobody can take its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=ranks) as listener:
        port = listener.getsockname()[1]
        common = {"HEXAREME_ATTEMPT": token}
        first = start(overrides, rank_variables(os.environ, 0, ranks, port) | common | {"HEXAREME_LISTENER": str(listener.fileno())})
    return [first, *(start(overrides, rank_variables(os.environ, rank, ranks, port) | common) for rank in range(1, ranks))]


def rank_variables(variables: Mapping[str, str], rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of one rank, in PyTorch's names; HEXAREME_PARENT lets it notice that we died before it could look."""
    return dict(variables) | {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HEXAREME_PARENT": str(os.getpid()),
    }


class Crew:
    """The watchers of one machine: signals go to all of them, and the first failure ends the others.

    Args:
        processes: process ids in the order of ranks, children of this process.
        directory: of the run.
        membership: of this attempt.
    """

    def __init__(self, processes: Sequence[int], directory: Path, *, membership: Membership) -> None:
        self.asked: signal.Signals | None = None
        self.spoken: Outcome | None = None  # of a watcher that was killed first
        self._running = {process: rank for rank, process in enumerate(processes)}
        self._directory, self._membership = directory, membership
        self._deadline: float | None = None
        self._memory = MemoryWatch()

    def wait(self) -> list[int]:
        """The exit codes in the order in which the watchers ended."""
        codes: list[int] = []
        watched = watched_signals()
        while self._running:
            caught = next_signal(watched, LOOK_SECONDS)
            if caught is not None:
                self.asked = self.asked or caught
                self._send(caught)
            for process, status in reap().items():
                if process in self._running:
                    codes.append(exit_code(status))
                    self._after(self._running.pop(process), status)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._send(signal.SIGKILL)
        return codes

    def _after(self, rank: int, status: int) -> None:
        """The first failure decides; what we then kill ourselves tells nothing new."""
        code = exit_code(status)
        if code == 0 or self._deadline is not None:
            return
        preempted = code == Preempted.exit_code
        self._deadline = time.monotonic() + (PREEMPTED_SECONDS if preempted else STOP_SECONDS)
        if os.WIFSIGNALED(status):
            self._speak_for(rank, status)
        if not preempted:  # where the folder is somebody else's, and rank 0 has said so, there is nothing to save
            self._send(signal.SIGKILL if code == IN_USE_CODE and rank == 0 else signal.SIGTERM)

    def _speak_for(self, rank: int, status: int) -> None:
        """A watcher that was killed cannot say so, and its rank went with it: the others would only say that they lost a peer."""
        outcome = outcome_of_status(status, memory=self._memory.words()).at(rank=rank, step=last_step(self._directory))
        outcome = self.spoken = replace(outcome, what=f"the watcher of the rank was {outcome.what}")
        if not self._membership.owns(self._directory) or first_cause(self._directory, outcome):
            sys.stderr.write(outcome.line() + "\n")

    def _send(self, number: int) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                os.kill(process, number)


def first_cause(directory: Path, outcome: Outcome) -> bool:
    """Writes `exit.json`; whether nobody had written one, or none can be written."""
    try:
        return ExitFile(directory).write(outcome)
    except OSError:
        return True
