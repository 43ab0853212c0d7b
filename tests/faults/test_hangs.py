"""Row C8: a rank that makes no progress is found, named with what it does and where, and ended; every rank's stacks lie in its log."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hexareme.core import run as core_run
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.engine.engine import Engine
from hexareme.core.pulse import Pulse
from hexareme.core.tracking.tracker import Tracker
from hexareme.core.trainer import Trainer
from hexareme.data.samples.dataset import TrainingSet
from hexareme.launcher.processes import descendants
from hexareme.launcher.watch.finding import Finding
from hexareme.launcher.watch.hang import HangWatch
from hexareme.launcher.watch.stacks import StackFile
from torch import distributed as dist

from .rig import SLACK, Run, Start, send

TIMEOUT, DETECTED, GONE = 3.0, 5.0, 10.0  # seconds: run.hang_timeout, to find out beyond it, to be gone after that
GUILTY, STEP = 1, 4  # which rank hangs, after which step
OVERRIDES = (f"run.hang_timeout={TIMEOUT}", "checkpoint.interval=0", "train.steps=2000")


def guilty() -> bool:
    return os.environ.get("RANK") == str(GUILTY)


def before_step(action: Callable[[], Any]) -> Callable[[], None]:
    """A fault for `prepare=`: the guilty rank does something as it begins the step after STEP."""

    def prepare() -> None:
        original = Trainer.train_one_step

        def train_one_step(self):
            if guilty() and self.progress.step == STEP:
                action()
            return original(self)

        Trainer.train_one_step = train_one_step

    return prepare


def hold_the_lock() -> None:
    """Waits in C for a mutex that it holds itself, and does not give Python's lock away."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    while True:
        library.pthread_mutex_lock(mutex)


def block() -> None:
    """Waits in Python, for nothing that any rank could give."""
    threading.Event().wait()


def hang_the_loader() -> None:
    original = TrainingSet.batch

    def batch(self, indices, tick):
        if guilty() and indices[0] >= STEP * 4:
            time.sleep(1000)  # the guilty line
        return original(self, indices, tick)

    TrainingSet.batch = batch


def skip_a_collective() -> None:
    """Somebody's own collective in each step, of which the guilty rank leaves one out, in a group that nothing else uses."""
    original, groups = Engine.train_step, []

    def train_step(self, *arguments, **options):
        if not groups:
            groups.append((dist.new_group([0, 1]), []))
        group, calls = groups[0]
        calls.append(1)
        if not (guilty() and len(calls) == STEP + 1):
            dist.all_reduce(torch.zeros(3), group=group)
        return original(self, *arguments, **options)

    Engine.train_step = train_step


def assert_ended(run: Run, start: Start, *, begin: float, says: list[str]) -> str:
    """The run ended in time, with the one line that says who, what and where."""
    assert start.finish(SLACK * (TIMEOUT + DETECTED + GONE)) == 5, start.text()
    seconds = time.monotonic() - begin
    assert seconds < SLACK * (TIMEOUT + DETECTED), f"{seconds:.1f} s"
    (line,) = start.error_lines()
    print(f"{seconds:.1f} s: {line}")
    assert line.startswith(f"ERROR 5 rank={GUILTY} ") and len(line.encode()) < 2000
    for text in ("hung in phase", *says):
        assert text in line, f"{text!r} is not in {line}"
    told = run.exit_json()
    assert (told["code"], told["reason"], told["rank"]) == (5, "hang", GUILTY)
    return line


def log(run: Run, rank: int) -> str:
    return (run.directory / "logs" / f"rank-{rank:05d}.log").read_text()


def test_a_stopped_rank(new_run):
    run = new_run("run", *OVERRIDES)
    start = run.start()
    start.await_step(STEP)
    send(start.rank(GUILTY), signal.SIGSTOP)
    assert_ended(run, start, begin=time.monotonic(), says=["phase step for", "is stopped (state T)", "rank 0 waits in "])
    assert "most recent call first" in log(run, 0)
    assert "it did not answer" in log(run, GUILTY)


ROWS = {
    "lock": (before_step(hold_the_lock), ["holds Python's lock at", "hold_the_lock", "library.pthread_mutex_lock", "rank 0 waits in"]),
    "loader": (hang_the_loader, ["its data loader stands at", "in batch", "# the guilty line", "rank 0 waits in"]),
    "skipped": (skip_a_collective, ["it waits in all_reduce at core/engine/", "while rank 0 waits in all_reduce at tests/",
                                    "one of them left out a collective"]),
    "blocked": (before_step(block), ["it stands at tests/faults/test_hangs.py", "threading.Event().wait()"]),
}


@pytest.mark.parametrize("name", [*list(ROWS)[:3], pytest.param("blocked", marks=pytest.mark.nightly)])
def test_a_rank_that_hangs(new_run, name):
    prepare, says = ROWS[name]
    run = new_run(name, *OVERRIDES)
    start = run.start(prepare=prepare)
    start.await_step(STEP)
    assert_ended(run, start, begin=time.monotonic(), says=says)
    for rank in (0, GUILTY):
        assert "most recent call first" in log(run, rank)


def test_a_rank_that_works_for_longer_than_the_timeout_is_no_hang(new_run):
    """It gives signs of progress; the other waits for it without any, its watcher asks, and nobody is ended."""
    run = new_run("run", "run.hang_timeout=1.5", "train.steps=6", "checkpoint.interval=0")

    def slowly() -> None:
        original = TrainingSet.batch

        def batch(self, indices, tick):
            for index in indices:
                if guilty() and STEP * 4 <= index < (STEP + 1) * 4:
                    time.sleep(1.0)
                tick()
            return original(self, indices, tick)

        TrainingSet.batch = batch

    start = run.start("batch.micro_size=1", "data.workers=0", "batch.global_size=8", prepare=slowly)
    assert start.finish() == 0, start.text()
    assert "s without progress" in log(run, 0)


def test_a_suspended_job_wakes_up_and_goes_on(new_run):
    """Watchers and ranks are stopped together for longer than the timeout, as Slurm suspends a job."""
    run = new_run("run", f"run.hang_timeout={TIMEOUT}", "train.steps=30", "checkpoint.interval=0")
    start = run.start()
    start.await_step(2)
    everybody = [start.front_end, *descendants(start.front_end)]
    for process in everybody:
        send(process, signal.SIGSTOP)
    time.sleep(TIMEOUT + 1)
    for process in everybody:
        send(process, signal.SIGCONT)
    assert start.finish() == 0, start.text()


def without_the_beat() -> None:
    Pulse.beat = lambda self: None


def without_the_signal() -> None:
    StackFile.ask = lambda self, process: None


def without_the_watch() -> None:
    HangWatch.look = lambda self, rank: None


def without_the_order() -> None:
    Finding.waiting = Finding.stopped = property(lambda self: False)


@pytest.mark.nightly
@pytest.mark.parametrize("row, mutant", [("loader", without_the_signal), ("lock", without_the_signal), ("skipped", without_the_order),
                                         ("blocked", without_the_beat), ("loader", without_the_watch)])
def test_a_mutant_turns_the_row_red(new_run, row, mutant):
    prepare, says = ROWS[row]

    def both() -> None:
        prepare()
        mutant()

    run = new_run(row, *OVERRIDES)
    start = run.start(prepare=both)
    start.await_step(STEP)
    with pytest.raises(AssertionError):
        assert_ended(run, start, begin=time.monotonic(), says=says)


PHASES = {
    "start": (core_run, "build", "phase start for"),
    "evaluation": (Trainer, "evaluate", "phase "),
    "save": (Checkpointer, "save", "phase save for"),
    "end": (Tracker, "__exit__", "phase end for"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_has_its_timeout(new_run, corpus, phase):
    """Rank 0 hangs at that place for ever, in a call that Python can name."""
    owner, name, says = PHASES[phase]
    run = new_run(phase, f"run.hang_timeout={TIMEOUT}", "train.steps=8", "checkpoint.interval=4", f"data.validation={corpus}",
                  "evaluation.interval=4", "evaluation.samples=4")

    def hang() -> None:
        original = getattr(owner, name)

        def hanging(*arguments, **options):
            if os.environ.get("RANK") == "0":
                threading.Event().wait()
            return original(*arguments, **options)

        setattr(owner, name, hanging)

    start = run.start(prepare=hang)
    assert start.finish(SLACK * (TIMEOUT + DETECTED + GONE) + 30) == 5, start.text()
    (line,) = start.error_lines()
    print(line)
    assert line.startswith("ERROR 5 rank=0 ") and says in line and "in hanging `threading.Event().wait()`" in line
