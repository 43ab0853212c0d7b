"""Row C13: two runs for one folder, on one host or on two; one that lived, slept, and woke up in somebody else's folder."""

import ctypes
import fcntl
import os
import re
import signal
import time

import pytest
from hexareme.core.trainer import Trainer
from hexareme.launcher.folder import fence, folder_lock
from hexareme.launcher.folder.fence import Fence
from hexareme.launcher.folder.lock_record import FILE_NAME, read_holder
from hexareme.launcher.watch import watcher

from tests.launcher.processes import wait_until

from .rig import SLACK, children, fork, send

CLONE_NEWUTS = 0x04000000  # linux/sched.h


def on_host(name):
    """`prepare=`: the run is on a host of another name, in a namespace of its own, whose flock no other host sees."""
    def prepare():
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWUTS) == 0 and libc.sethostname(name.encode(), len(name)) == 0
        fcntl.flock = lambda descriptor, operation: None
    return prepare


def slow():
    """`prepare=`: steps that take a while, so that the run is surely there when somebody else comes."""
    step = Trainer.train_one_step

    def slowly(self):
        time.sleep(0.15)
        return step(self)

    Trainer.train_one_step = slowly


def contents(folder):
    """What must stay untouched of a run that goes on: its record, its config, and who writes into its logs."""
    logs = {path.name: re.findall(r"^--- rank .*", path.read_text(), re.MULTILINE) for path in (folder / "logs").iterdir()}
    return logs | {name: (folder / name).read_bytes() for name in (FILE_NAME, "config.yaml")}


def test_the_second_of_two_runs_is_refused_and_the_first_untouched(new_run, reference):
    run = new_run("run")
    first = run.start(prepare=slow)
    first.await_step(3)
    before = contents(run.directory)
    second = run.start()
    assert second.finish(SLACK * 5) == 8
    assert time.monotonic() - second.begun < SLACK * 5
    (line,) = second.error_lines()
    assert line.startswith("ERROR 8 rank=0 ") and f"process {first.watchers[0]} on host {os.uname().nodename} since" in line
    assert "another run.name" in line and "Traceback" not in second.text()
    assert contents(run.directory) == before and not (run.directory / "exit.json").exists() and not first.ended()
    assert first.finish() == 0
    assert run.exit_json()["code"] == 0 and run.course() == reference


@pytest.mark.nightly
def test_without_the_lock_two_runs_are_in_one_folder(new_run):
    """The mutant of the test above."""
    def prepare():
        folder_lock.lock = lambda descriptor: folder_lock.Flock.ours
        folder_lock.Holder.may_live = lambda self: False

    run = new_run("run")
    first = run.start(prepare=prepare)
    first.await_step(3)
    second = run.start(prepare=prepare)
    assert second.wait() != 8
    first.kill()


def test_a_run_that_was_killed_is_taken_over_with_a_message(new_run, reference):
    run = new_run("run")
    start = run.start()
    start.await_step(13)
    start.kill()
    start.finish()
    again = run.start()
    assert again.finish() == 0, again.text()
    assert "WARNING:" in again.text() and "which is dead: taken over" in again.text()
    assert run.course() == reference
    last = run.start()
    assert last.finish() == 0 and "held by" not in last.text()  # who ended has let go


def frozen(new_run, *, prepare=lambda: None):
    """A run that slept while another host took its folder over, went on, and woke up beside it: both starts."""
    run = new_run("run")

    def sleeper():
        on_host("n0")()
        slow()  # it falls asleep between its first checkpoint and its second
        prepare()

    old = run.start("train.steps=400", "schedule.warmup_steps=2", prepare=sleeper)
    old.await_step(12)
    for process in [*old.watchers, *(rank for each in old.watchers for rank in children(each))]:
        send(process, signal.SIGSTOP)
    stopped_at = run.last_step()
    os.utime(run.directory / FILE_NAME, (time.time() - 61,) * 2)
    new = run.start("train.steps=400", "schedule.warmup_steps=2", prepare=on_host("n1"))
    wait_until(lambda: new.ended() or run.last_step() >= stopped_at + 3, 60)
    assert not new.ended(), new.text()
    for process in [*old.watchers, *(rank for each in old.watchers for rank in children(each))]:
        send(process, signal.SIGCONT)
    return run, old, new


@pytest.mark.parametrize("first", ["both", pytest.param("rank 1", marks=pytest.mark.nightly)])
def test_an_attempt_that_lost_its_folder_writes_nothing_more(new_run, first):
    """Whichever rank sees it first, rank 0 speaks."""
    def prepare():
        forget_the_last_look()
        look = Fence.lately
        if first == "rank 1":
            Fence.lately = lambda self: look(self) if os.environ["RANK"] == "1" else None

    run, old, new = frozen(new_run, prepare=prepare)
    assert old.finish(SLACK * 10) == 8 and saves(old) == 1
    (line,) = old.error_lines()
    assert line.startswith("ERROR 8 rank=0 ") and "on host n1 since" in line and "this attempt" in line
    send(new.front_end, signal.SIGTERM)
    assert new.finish() == 75, new.text()
    assert "on host n0" in new.text() and "taken over" in new.text()
    assert run.exit_json()["reason"] == "preempted"
    steps = [row["step"] for row in run.metrics()]
    assert steps == list(range(1, len(steps) + 1))  # no line of the old attempt
    holder = read_holder(run.directory / FILE_NAME)
    assert holder is not None and holder.host == "n1" and holder.ended


def saves(start):
    """Checkpoints that a start has announced; it slept after the first."""
    return start.text().count("\ncheckpoint ")


def forget_the_last_look():
    """The seconds in which nobody can take a folder over, over at once: the test has not slept for a minute."""
    fence.RECENT_SECONDS = 0.0


def test_without_the_fence_it_would(new_run):
    """The mutant of the test above."""
    def prepare():
        Fence.__call__ = lambda self: None

    run, old, new = frozen(new_run, prepare=prepare)
    wait_until(lambda: old.ended() or saves(old) > 1, 60)
    old.kill()
    new.kill()
    assert saves(old) > 1 or old.code == 4  # it ran into the checkpoint that the new attempt had written meanwhile


@pytest.mark.nightly
def test_the_last_fence_is_before_a_save(new_run):
    """Nobody looked before the lines of the steps: the checkpoint is not written."""
    def prepare():
        Fence.lately = lambda self: None

    run, old, new = frozen(new_run, prepare=prepare)
    assert old.finish(SLACK * 20) == 8 and saves(old) == 1
    send(new.front_end, signal.SIGTERM)
    assert new.finish() == 75, new.text()
    assert run.state() and run.exit_json()["reason"] == "preempted"


def test_ranks_whose_rank_0_was_refused_touch_nothing(new_run):
    """Rank 1 of a refused attempt, left alone by its front end: no log, no exit.json, and it ends by itself."""
    run = new_run("run")
    first = run.start(prepare=slow)
    first.await_step(3)
    before = contents(run.directory)

    def lonely_rank():
        os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29555",
                          HEXAREME_ATTEMPT="refused", HEXAREME_PARENT=str(os.getppid()))
        from hexareme.launcher.rank import run_rank
        return watcher.main([*run.overrides, "run.hang_timeout=2"], run_rank)

    output = run.folder / "lonely.txt"
    child = fork(lonely_rank, output)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    assert "rank 0 of 2 did not come within 2 s: 127.0.0.1:29555 does not listen" in output.read_text()
    assert contents(run.directory) == before and not (run.directory / "exit.json").exists() and not first.ended()
    first.kill()
