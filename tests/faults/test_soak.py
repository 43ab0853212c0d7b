"""Row A3: a run that is killed a hundred times at random ends as if nothing had been."""

import os
import random
import re
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hexareme.launcher.local import start_local
from hexareme.launcher.processes import descendants
from hexareme.launcher.supervisor import start_supervised

from .rig import Run, Start, send

SEED = 4
STEPS, INTERVAL, KILLS = 600, 5, 100
MOST_STEPS = 8  # until the next kill: the run must not end before the last
OVERRIDES = (f"train.steps={STEPS}", f"checkpoint.interval={INTERVAL}", "checkpoint.keep=2", "evaluation.interval=0")
EXECUTED = re.compile(r"^step +(\d+)/", re.MULTILINE)
WORKER = "hexareme.core.checkpoint.worker"


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""  # it has just ended


class Chain:
    """Starts of one run, each killed at a random time: uniform over a few startups, but a random step at the latest.

    Args:
        run: the run.
        startup: seconds from a start to its first step.
    """

    def __init__(self, run: Run, startup: float) -> None:
        self._run, self._random, self._startup = run, random.Random(SEED), startup
        self.killed: Counter[str] = Counter()
        self.while_training = 0

    def go(self) -> None:
        """All the kills."""
        while self.killed.total() < KILLS:
            supervised = self._random.random() < 0.3
            self._run.start_function = partial(start_supervised, restarts=100, backoff_seconds=0.05) if supervised else start_local
            asynchronous = self._random.choice(("true", "false"))
            restarts = ("run.restarts=100",) if supervised else ()
            self._live(self._run.start(f"checkpoint.asynchronous={asynchronous}", *restarts), supervised=supervised)

    def _live(self, start: Start, *, supervised: bool) -> None:
        """One start to its end; what is above its ranks starts them again, or does not."""
        for _ in range(self._random.randint(2, 6) if supervised else 1):
            before = self._run.last_step()
            self._wait(start, most=self._run.last_step() + self._random.randint(1, MOST_STEPS))
            if start.ended():
                assert start.code != 0, "it came to its end too soon"
                return
            self.while_training += self._run.last_step() != before
            fatal = self._kill(start, "part" if supervised else self._random.choice(("all", "front end", "part")))
        if supervised or not fatal:
            self._kill(start, "front end")
        assert start.finish() != 0

    def _kill(self, start: Start, what: str) -> bool:
        """Returns whether the run cannot outlive it: an idle worker of asynchronous saves is replaced, and training goes on."""
        below = descendants(start.front_end)
        if what == "all":
            victims = [start.front_end, *below]
        elif what == "part" and below:
            victims = [self._random.choice(below)]
        else:
            what, victims = "front end", [start.front_end]
        fatal = not all(WORKER in command_line(victim) for victim in victims)
        for victim in victims:
            send(victim, signal.SIGKILL)
        self.killed[what] += 1
        return fatal

    def _wait(self, start: Start, *, most: int) -> None:
        """Until the moment of the kill; where it comes because step `most` was reached, a while later, longer than a step and a save."""
        end = time.monotonic() + self._random.uniform(0, 3 * self._startup)
        while time.monotonic() < end and not start.ended():
            if self._run.last_step() >= most:
                time.sleep(self._random.uniform(0, 0.3))
                return
            time.sleep(0.01)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_a_hundred_times(new_run, capsys):
    """A3, acceptance 7."""
    whole = new_run("whole", *OVERRIDES)
    begun = time.monotonic()
    start = whole.start()
    start.await_step(1)
    startup = time.monotonic() - begun
    assert start.finish(1200) == 0
    run = new_run("run", *OVERRIDES)
    chain = Chain(run, startup)
    chain.go()
    run.start_function = start_local
    last = run.start()
    assert last.finish(1200) == 0, last.text()
    executed = sum(len(EXECUTED.findall(start.text())) for start in run.starts)
    samples = Counter(sample for step in run.samples().values() for sample in step)
    with capsys.disabled():
        print(f"\n{chain.killed.total()} kills ({dict(chain.killed)}; {chain.while_training} while training) in {len(run.starts)} starts, "
              f"{time.monotonic() - begun:.0f} s: {executed - STEPS} of {STEPS} steps repeated, "
              f"{len(samples)} samples, each {set(samples.values())} times")
    assert chain.killed.total() >= KILLS and chain.while_training >= KILLS // 5
    assert run.course() == whole.course()
    assert set(samples.values()) == {1} and len(samples) == STEPS * 4
    assert 0 < executed - STEPS <= KILLS * INTERVAL
    logs = "".join(path.read_text() for path in (run.directory / "logs").iterdir())
    assert "damaged" not in logs, "a checkpoint was loaded that was not whole"
    assert sorted(os.listdir(run.directory / "checkpoints")) == ["latest", f"step-{STEPS - INTERVAL:08d}", f"step-{STEPS:08d}"]
