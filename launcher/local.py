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
    listener = socket.create_server(("127.0.0.1", 0), backlog=ranks)
    seats = Seats(first=0, count=ranks, world_size=ranks, address="127.0.0.1", port=listener.getsockname()[1])
    processes = start_ranks(overrides, seats, start, token=token, listener=listener)
    crew = Crew(processes, directory, membership=Membership(digest(token)))
    codes = crew.wait()
    end_descendants(patience_seconds=STOP_SECONDS)
    return concluded(codes, directory, asked=crew.asked, spoken=crew.spoken)


def concluded(codes: Sequence[int], directory: Path, *, asked: signal.Signals | None, spoken: Outcome | None) -> Attempt:
    """How an attempt ended, when all of its processes have.

    Args:
        codes: exit codes of the watchers in the order in which they ended.
        directory: of the run.
        asked: the first signal that somebody sent to the front end.
        spoken: what the front end said for a watcher that could not.
    """
    failed = [code for code in codes if code != 0]
    first = ExitFile(directory).read() or {}
    if not failed:
        return Attempt(code=0, asked=asked, cause=first)
    if IN_USE_CODE in failed:  # what exit.json says is of somebody else
        return Attempt(code=IN_USE_CODE, asked=asked, cause={"code": IN_USE_CODE, "reason": "folder_in_use", "rank": 0})
    if spoken is not None and asked is None and first.get("code") == Preempted.exit_code:
        ExitFile(directory).correct(spoken)  # a rank that we stopped ourselves, before the folder was ours to write the cause
        return Attempt(code=spoken.code, asked=None, cause=asdict(spoken))
    if first.get("code") in failed:
        return Attempt(code=first["code"], asked=asked, cause=first)
    return Attempt(code=failed[0], asked=asked, cause={"code": failed[0], "reason": "error", "step": last_step(directory)})


@dataclass(frozen=True, kw_only=True)
class Seats:
    """The ranks of one machine among all.

    Args:
        first: number of its first rank.
        count: its ranks.
        world_size: of all machines.
        address, port: where rank 0 listens, as every machine reaches it.
    """

    first: int
    count: int
    world_size: int
    address: str
    port: int


def start_ranks(overrides: Sequence[str], seats: Seats, start: StartFunction, *, token: str,
                listener: socket.socket | None) -> dict[int, int]:
    """Starts the watchers of one machine: process id -> rank, in the order of ranks.

    Args:
        overrides, start: as in `attempt`.
        seats: which ranks.
        token: of the attempt.
        listener: rank 0 inherits the socket on which it listens, so nobody can take its port, and it is closed here; None where rank 0
            is elsewhere.
    """
    found = {}
    for local_rank in range(seats.count):
        variables = rank_variables(os.environ, seats, local_rank) | {"HEXAREME_ATTEMPT": token}
        if listener is not None and local_rank == 0:
            variables["HEXAREME_LISTENER"] = str(listener.fileno())
        found[start(overrides, variables)] = seats.first + local_rank
        if listener is not None:
            listener.close()  # no later rank inherits it: the port ends with rank 0
            listener = None
    return found


def rank_variables(variables: Mapping[str, str], seats: Seats, local_rank: int) -> dict[str, str]:
    """The environment of one rank, in PyTorch's names; HEXAREME_PARENT lets it notice that we died before it could look."""
    return dict(variables) | {
        "RANK": str(seats.first + local_rank), "WORLD_SIZE": str(seats.world_size), "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(seats.count), "MASTER_ADDR": seats.address, "MASTER_PORT": str(seats.port),
        "HEXAREME_PARENT": str(os.getpid()),
    }


class Crew:
    """The watchers of one machine: signals go to all of them, and the first failure ends the others.

    Args:
        processes: process id -> rank, children of this process.
        directory: of the run.
        membership: of this attempt.
        on_end: called with rank and exit code as soon as a watcher has ended.
    """

    def __init__(self, processes: Mapping[int, int], directory: Path, *, membership: Membership,
                 on_end: Callable[[int, int], None] = lambda rank, code: None) -> None:
        self.asked: signal.Signals | None = None
        self.spoken: Outcome | None = None  # of a watcher that was killed first
        self._running = dict(processes)
        self._directory, self._membership, self._on_end = directory, membership, on_end
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
                    rank = self._running.pop(process)
                    codes.append(exit_code(status))
                    self._after(rank, status)
                    self._on_end(rank, exit_code(status))
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
