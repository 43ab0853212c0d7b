"""What a watcher does about a rank that makes no progress: takes its stacks, hears the other watchers, judges, ends it (DESIGN.md 3.9)."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import PeerError
from ...core.pulse import Beat, Pulse
from ..environment import Environment, on_cpu
from ..outcome import Outcome
from .finding import Finding, Findings
from .rank_process import log_file
from .stacks import StackFile, append_to_log, complete, standing_of, state_of
from .verdict import judge

REASON = "hang"
LONGEST_GAP_SECONDS = 2.0  # between two looks that counts: a suspended job wakes up with its watchers, and nobody hung
ANSWER_SECONDS = 1.0  # for the stacks; they come in milliseconds or never
GATHER_SECONDS = 3.0  # for the other watchers' findings; with the looks before it stays within the 5 s of detection
LISTEN_SECONDS = 1.0  # between looks at the run folder


@dataclass
class _Clock:
    """Seconds that this watcher has been awake since something last changed."""

    seconds: float = 0.0

    def add(self, gap: float) -> None:
        self.seconds += min(gap, LONGEST_GAP_SECONDS)


class HangWatch:
    """One rank's progress, as its watcher sees it: `look` is called several times a second.

    Args:
        directory: of the run.
        environment: the rank's place.
        timeout_seconds: `run.hang_timeout`.
        pulse: of the rank.
        stacks: where its stacks go.
    """

    def __init__(self, directory: Path, environment: Environment, *, timeout_seconds: float, pulse: Pulse, stacks: StackFile) -> None:
        self._directory, self._environment, self._timeout = directory, environment, timeout_seconds
        self._pulse, self._stacks = pulse, stacks
        self._attempt = environment.membership.attempt
        self._findings = Findings(directory, self._attempt)
        if environment.rank == 0:  # its watcher holds the folder; another's may still find out that it is somebody else's
            self._findings.clear(0, all_ranks=True)
        self._seen = pulse.read()
        self._idle, self._silent, self._patience, self._listened = _Clock(), _Clock(), _Clock(), _Clock()
        self._looked = time.monotonic()
        self._own: Finding | None = None
        self._episode = 0  # of the last alarm that this watcher took part in
        self._asked: float | None = None
        self._gathering: float | None = None

    @property
    def alarmed(self) -> bool:
        """Whether it is in the middle of a judgement and wants to look again soon."""
        return self._asked is not None or self._gathering is not None

    def look(self, rank: int) -> Outcome | None:
        """How the run ends, once it is clear that it hangs; then the rank must be killed.

        Args:
            rank: its process id.
        """
        self._advance()
        now = time.monotonic()
        if self._asked is not None:
            if complete(self._stacks.answer()) or now - self._asked > ANSWER_SECONDS:
                self._tell(rank)
            return None
        if self._gathering is not None:
            return self._judge(now)
        if self._patience.seconds > self._timeout or self._called():
            self._episode += 1
            self._stacks.ask(rank)
            self._asked = now
        return None

    def _advance(self) -> None:
        now, beat = time.monotonic(), self._pulse.read()
        gap, self._looked = now - self._looked, now
        for clock in (self._idle, self._silent, self._patience, self._listened):
            clock.add(gap)
        if beat.thread != self._seen.thread:
            self._silent = _Clock()
        if beat.progress != self._seen.progress:
            self._idle, self._patience = _Clock(), _Clock()
        self._seen = beat

    def _called(self) -> bool:
        """Whether another watcher has raised an alarm that this one did not answer yet."""
        if self._listened.seconds < LISTEN_SECONDS:
            return False
        self._listened = _Clock()
        newest = max((finding.episode for finding in self._findings.read().values()), default=0)
        called = newest > self._episode
        if called:
            self._episode = newest - 1
        return called

    def _tell(self, rank: int) -> None:
        dump, beat = self._stacks.answer(), self._seen
        self._own = self._finding(rank, beat, dump)
        if self._environment.membership.owns(self._directory):
            self._findings.publish(self._own)
            append_to_log(log_file(self._directory, self._environment.rank), dump, process=rank, idle_seconds=self._idle.seconds)
        self._asked, self._gathering = None, time.monotonic()

    def _finding(self, rank: int, beat: Beat, dump: str) -> Finding:
        return Finding(
            attempt=self._attempt, episode=self._episode, rank=self._environment.rank, host=socket.gethostname(), process=rank,
            phase=beat.phase, step=beat.step, ticks=beat.ticks, idle_seconds=self._idle.seconds,
            late=self._idle.seconds > self._timeout, state=state_of(rank), beat_seconds=self._silent.seconds, answered=bool(dump),
            standing=standing_of(dump, accelerator=not on_cpu()))

    def _judge(self, now: float) -> Outcome | None:
        """Once all have told, or time is up."""
        assert self._gathering is not None and self._own is not None
        told = {rank: each for rank, each in self._findings.read().items() if each.episode >= self._episode}
        told[self._own.rank] = self._own  # also where the disk refused it
        if len(told) < self._environment.world_size and now - self._gathering < GATHER_SECONDS:
            return None
        self._gathering, self._patience = None, _Clock()
        verdict = judge(told, world_size=self._environment.world_size)
        if verdict is None:
            return None
        return Outcome(code=PeerError.exit_code, reason=REASON, rank=verdict.rank, what=verdict.what, do=verdict.do,
                       file=f"logs/rank-{verdict.rank:05d}.log")
