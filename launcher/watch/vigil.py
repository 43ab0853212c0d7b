"""Waiting for a rank: passes signals on, notices a lost front end, and ends a rank that will not end."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..environment import FrontEnd
from ..outcome import PEER_CODE, SIGNAL_CODE, Outcome, outcome_of_status
from ..processes import parent_of, reap
from .hang import HangWatch
from .memory_limit import MemoryWatch

GRACE_SECONDS = 30.0  # to save after SIGTERM; Slurm's KillWait and DeepSpeed's launcher wait as long
SAME_REQUEST_SECONDS = 0.5  # Ctrl-C reaches every process of the terminal, and launchers pass it on once more
LOOK_SECONDS = 0.5  # between looks at the front end and at the other ranks
ALARMED_SECONDS = 0.1  # while a hang is being judged
KERNEL_SECONDS = 10.0  # for the kernel to let go of a killed rank
PEER_SECONDS = 5.0  # for a rank to notice by itself that another has failed: it can save nothing any more


def watched_signals() -> set[signal.Signals]:
    """What a watcher takes for its rank; what the user chose to ignore (nohup, a background job) stays ignored."""
    asked = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
    return {number for number in asked if signal.getsignal(number) is not signal.SIG_IGN} | {signal.SIGCHLD}


def next_signal(watched: set[signal.Signals], seconds: float) -> signal.Signals | None:
    """The next signal that asks for something; None where none comes in time, or a child has ended.

    Args:
        watched: as `watched_signals`; blocked.
        seconds: to wait.
    """
    caught = signal.sigtimedwait(watched, seconds)
    # CPython returns uninitialised memory where a stop of this process (SIGSTOP, SIGCONT) outlasted the time to wait.
    asked = watched - {signal.SIGCHLD}
    return signal.Signals(caught.si_signo) if caught is not None and caught.si_signo in asked else None


@dataclass(frozen=True)
class Ending:
    """How a rank ended.

    Args:
        status: its wait status.
        forced: why the watcher killed it; None where it ended by itself.
        memory: what is known of the memory at its end.
    """

    status: int
    forced: Outcome | None
    memory: str

    def outcome(self, said: Outcome | None) -> Outcome:
        """What counts: the watcher's own reason to kill, then a death by signal, then the rank's own word."""
        if os.WIFSIGNALED(self.status):
            return self.forced or outcome_of_status(self.status, memory=self.memory)
        return said or outcome_of_status(self.status)


class Vigil:
    """One rank, from fork to end. The signals of `watched_signals` must be blocked in this process.

    Args:
        rank: process id.
        front_end: who started the watcher.
        parent: process id of the front end; 0: it may end before the rank.
        grace_seconds: for the rank to save after SIGTERM.
        peer_failed: whether another rank has failed.
        hang: looks whether the run makes progress; None where nobody does.
    """

    def __init__(self, rank: int, front_end: FrontEnd, *, parent: int = 0, grace_seconds: float = GRACE_SECONDS,
                 peer_failed: Callable[[], bool] = lambda: False, hang: HangWatch | None = None) -> None:
        self._hang = hang
        self._memory = MemoryWatch()
        self._grace = grace_seconds
        self._rank = rank
        self._owner = parent
        self._peer_failed = peer_failed
        self._peer_deadline: float | None = None
        self._parent = os.getppid()
        # `deepspeed` starts a launch.py that starts us; SIGTERM to the former leaves the latter running.
        self._grandparent = parent_of(self._parent) if front_end is FrontEnd.deepspeed else 0
        self._interrupted_at: float | None = None
        self._deadline: float | None = None
        self._forced: Outcome | None = None
        self._killed_at: float | None = None

    def wait(self) -> Ending:
        """Returns when the rank has ended."""
        watched = watched_signals()
        while True:
            caught = next_signal(watched, ALARMED_SECONDS if self._hang is not None and self._hang.alarmed else LOOK_SECONDS)
            if caught is not None:
                self._pass_on(caught)
            status = reap().get(self._rank)
            if status is not None:
                return Ending(status, self._forced, self._memory.words())
            if self._killed_at is not None and time.monotonic() > self._killed_at + KERNEL_SECONDS:
                return Ending(signal.SIGKILL, self._forced, self._memory.words())  # the kernel holds it, as for a dead network disk
            self._look_around()
            self._end_a_hang()
            if self._deadline is None and self._front_end_lost():
                self._pass_on(signal.SIGTERM)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._kill(signal.SIGTERM, f"was asked to stop, had not after {self._grace:.0f} s, and was killed")

    def _look_around(self) -> None:
        """Ends the rank with those it cannot live without: its front end, and the other ranks."""
        if self._owner and os.getppid() != self._owner:  # only where the kernel did not end this process first
            self._kill(signal.SIGKILL, f"lost its front end (process {self._owner}) and was killed")
        if self._peer_deadline is None and self._peer_failed():
            self._peer_deadline = time.monotonic() + PEER_SECONDS
        if self._peer_deadline is not None and time.monotonic() > self._peer_deadline:
            self._forced = self._forced or Outcome(code=PEER_CODE, reason="peer", what="another rank failed and this one had to be killed",
                                                   do="look at exit.json for the first cause")
            self._send(signal.SIGKILL)

    def _end_a_hang(self) -> None:
        if self._forced is None and self._hang is not None:
            self._forced = self._hang.look(self._rank)
        if self._forced is not None:
            self._killed_at = self._killed_at or time.monotonic()
            self._send(signal.SIGKILL)

    def _pass_on(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if number is signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at > SAME_REQUEST_SECONDS:
                self._kill(signal.SIGINT, "was interrupted twice and killed")
                return
            self._interrupted_at = self._interrupted_at or now
        else:
            self._deadline = self._deadline or now + self._grace
        self._send(signal.SIGTERM if number is signal.SIGHUP else number)

    def _kill(self, asked: signal.Signals, what: str) -> None:
        """The exit code names the signal that asked, not the SIGKILL that had to follow."""
        self._forced = self._forced or Outcome(code=SIGNAL_CODE + asked, reason="killed", what=what,
                                               do="start the same command to go on from the last checkpoint")
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._rank, number)

    def _front_end_lost(self) -> bool:
        return self._grandparent != 0 and parent_of(self._parent) != self._grandparent
