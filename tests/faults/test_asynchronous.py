"""Asynchronous saves: the same checkpoints as synchronous ones, written by another process; a worker that fails is an error in time."""

import os
import signal
import time
from pathlib import Path
from statistics import median

import pytest
from hexareme.core.checkpoint.folder import staged_folders, step_folders
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.trainer import Trainer

from tests.launcher.processes import wait_until

from .rig import SLACK, Run, Start, children, living, send
from .strace import Tracer

ASYNCHRONOUS = "checkpoint.asynchronous=true"


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("reference"), corpus)
    assert run.start().finish() == 0
    return run.course()


def workers(rank: int) -> list[int]:
    """The processes that write for a rank."""
    return [process for process in children(rank) if b"checkpoint.worker" in Path(f"/proc/{process}/cmdline").read_bytes()]


def steps(run: Run) -> list[int]:
    return [Checkpoint.open(folder).step for folder in step_folders(run.directory / "checkpoints")]


def test_the_same_run_bit_for_bit(new_run, reference):
    run = new_run("run", ASYNCHRONOUS)
    assert run.start().finish() == 0
    assert run.course() == reference
    assert steps(run) == [40, 30]  # `keep` is 2
    assert staged_folders(run.directory / "checkpoints") == []
    for folder in step_folders(run.directory / "checkpoints"):
        Checkpoint.open(folder).verify()


def test_the_worker_is_small_and_nameless(new_run):
    run = new_run("run", ASYNCHRONOUS, "train.steps=400", "checkpoint.interval=5")
    start = run.start()
    worker = worker_of(start, 1)
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "libtorch" not in maps and "memfd:hexareme-checkpoint" in maps
    assert os.getpriority(os.PRIO_PROCESS, worker) == 19
    send(start.rank(1), signal.SIGKILL)  # without a word to its worker
    assert start.finish() == 137
    wait_until(lambda: not living(worker), SLACK * 5)


def test_a_killed_worker_costs_one_checkpoint_and_no_step(new_run, reference):
    run = new_run("run", ASYNCHRONOUS)
    start = run.start(prepare=slow_steps)
    worker = worker_of(start, 1)
    kill_while_saving(run, worker)
    assert start.finish() == 0, start.text()
    assert "NOT SAVED" in start.text() and "was killed by signal 9" in start.text()
    assert run.course() == reference
    assert staged_folders(run.directory / "checkpoints") == []


def test_never_two_saves_in_flight(new_run, reference):
    """With its worker stopped the run goes on to the next save, and there it waits."""
    run = new_run("run", ASYNCHRONOUS)
    start = run.start(prepare=slow_steps)
    worker = worker_of(start, 0)
    send(worker, signal.SIGSTOP)
    begun = first_staged(run)
    wait_until(lambda: "waits for the one before" in start.text(), 60)
    waits_at = run.last_step()
    time.sleep(1.0)
    assert run.last_step() == waits_at
    assert staged_folders(run.directory / "checkpoints") == [begun]
    send(worker, signal.SIGCONT)
    assert start.finish() == 0
    assert run.course() == reference


def test_a_preemption_waits_for_the_save_in_flight(new_run, reference):
    run = new_run("run", ASYNCHRONOUS)
    start = run.start(prepare=slow_steps)
    worker = worker_of(start, 0)
    send(worker, signal.SIGSTOP)
    first_staged(run)
    send(start.rank(1), signal.SIGUSR1)
    time.sleep(1.0)
    assert not start.ended()
    send(worker, signal.SIGCONT)
    assert start.finish() == 75
    assert steps(run)[0] == run.last_step()
    assert run.start().finish() == 0
    assert run.course() == reference


@pytest.mark.nightly
def test_steps_do_not_wait_for_a_slow_disk(new_run):
    """A8: each write and fsync of the workers takes 0.3 s more; steps during the save take as long as before it."""
    run = new_run("run", ASYNCHRONOUS, "train.steps=120", "checkpoint.interval=40")
    start = run.start(prepare=slow_steps)
    found = [worker_of(start, number) for number in range(2)]  # they live from the first save on
    slow = Tracer(found, run.folder / "trace", "-e", "inject=write,pwrite64,fsync,fdatasync:delay_enter=300000")
    staged = first_staged(run)
    began = run.last_step()
    wait_until(lambda: not staged.exists() or start.ended(), 120)
    ended = min(run.last_step(), 119)  # the last step's save is waited for
    slow.close()
    assert start.finish() == 0
    seconds = {row["step"]: row["step_seconds"] for row in run.metrics() if "loss" in row}
    during = [seconds[step] for step in range(began + 1, ended + 1)]
    assert len(during) >= 10, f"the save was over after {len(during)} steps"
    before = median(seconds[step] for step in range(10, 40))
    assert median(during) <= before * (1 + 0.05 * SLACK), (median(during), before)


def slow_steps() -> None:
    """A step takes 50 ms more, so that signals hit the moment they are meant for."""
    whole = Trainer.train_one_step

    def slow(trainer: Trainer) -> object:
        time.sleep(0.05)
        return whole(trainer)

    Trainer.train_one_step = slow  # type: ignore[method-assign, assignment]


def worker_of(start: Start, number: int) -> int:
    """The process that writes for a rank, as soon as it has committed something."""
    rank = start.rank(number)
    wait_until(lambda: start.ended() or (workers(rank) and "\ncheckpoint " in start.text()), 90)  # told when no worker is busy any more
    assert workers(rank), start.text()
    return workers(rank)[0]


def first_staged(run: Run) -> Path:
    """The folder of the next save, as soon as it is there."""
    directory = run.directory / "checkpoints"
    wait_until(lambda: staged_folders(directory), 60)
    return staged_folders(directory)[0]


def kill_while_saving(run: Run, worker: int) -> None:
    """SIGKILL for a worker that has a save to write."""
    send(worker, signal.SIGSTOP)
    first_staged(run)
    time.sleep(0.3)  # the job is handed over
    send(worker, signal.SIGKILL)
    send(worker, signal.SIGCONT)
