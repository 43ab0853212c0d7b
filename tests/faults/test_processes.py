"""Rows C1, C2, C15, C16, exit codes: killed ranks, watchers, front ends; nothing outlives them, nothing is taken for success."""

import ast
import errno
import os
import signal
import time
from pathlib import Path

import pytest
from hexareme.core import parent_death
from hexareme.launcher.local import Crew
from hexareme.launcher.watch import rank_process
from hexareme.launcher.watch.vigil import Vigil

from tests.launcher.processes import wait_until

from .memory_group import memory_group
from .planted import all_of, dies, plant, replaced
from .rig import GONE_SECONDS, SLACK, descendants, living, send

T0 = [("init", 1), ("backward", 0), ("save", 1), ("exit", 0)]
PHASES = ("init", "data", "forward", "backward", "step", "evaluation", "save", "exit")
NIGHTLY = [(phase, rank) for phase in PHASES for rank in (0, 1) if (phase, rank) not in T0]
LONG = ("train.steps=100000", "checkpoint.interval=0", "data.audit=false", "tracking.console_interval=1000")


@pytest.mark.parametrize(("phase", "rank"), [*T0, *(pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY)])
def test_a_killed_rank_is_named_and_ends_the_run(new_run, corpus, reference, phase, rank):
    """C1."""
    run = new_run("run")
    evaluated = (f"data.validation={corpus}", "evaluation.interval=15", "evaluation.samples=16") if phase == "evaluation" else ()
    moment = run.folder / "moment"
    start = run.start(*evaluated, prepare=plant(phase, dies(moment), rank=rank))
    assert start.wait(90) == 137, start.text()
    assert time.monotonic() - float(moment.read_text()) < SLACK * GONE_SECONDS
    start.finish()
    ended = run.exit_json()
    assert (ended["code"], ended["rank"]) == (137, rank)
    (line,) = start.error_lines()
    assert line.startswith(f"ERROR 137 rank={rank} ") and "killed by signal 9 (SIGKILL)" in line
    assert run.start(*evaluated).finish() == 0
    assert run.course() == reference


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_killed_watcher_takes_its_rank_along_and_is_named(new_run, rank):
    """C2."""
    run = new_run("run")
    start = run.start(*LONG)
    start.await_step(3)
    below = start.rank(rank)
    send(start.watchers[rank], signal.SIGKILL)
    wait_until(lambda: not living(below), SLACK * 5)
    assert start.finish(SLACK * 15) == 137
    (line,) = start.error_lines()
    assert line.startswith(f"ERROR 137 rank={rank} ") and "the watcher of the rank was killed by signal 9" in line
    assert (run.exit_json()["code"], run.exit_json()["rank"]) == (137, rank)


def test_a_watcher_that_is_killed_at_once_is_named(new_run):
    """C2, before the folder is the run's: the rank that was then told to stop says 75, but nobody asked for that."""
    run = new_run("run")
    start = run.start(*LONG)
    wait_until(lambda: len(start.watchers) == 2, SLACK * 5)
    send(start.watchers[1], signal.SIGKILL)
    assert start.finish(SLACK * 15) == 137
    assert (run.exit_json()["code"], run.exit_json()["rank"]) == (137, 1)


def survivors_of_the_front_end(run, prepare=lambda: None, *, seconds=SLACK * 5):
    """Row C2: how many of its processes live 5 seconds (times three) after the front end was killed."""
    start = run.start(*LONG, prepare=prepare)
    start.await_step(3)
    below = descendants(start.front_end)
    assert len(below) >= 4
    send(start.front_end, signal.SIGKILL)
    assert start.wait() == 137
    deadline = time.monotonic() + seconds
    while (alive := [process for process in below if living(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in alive:
        send(process, signal.SIGKILL)
    return len(alive)


# Each way by itself is enough: the kernel's signal; the rank's pipe beside the watcher's look at its parent.
NO_KERNEL = replaced(parent_death, "PR_SET_PDEATHSIG", 4)  # PR_SET_DUMPABLE: asks for nothing that matters here
NO_PIPE = replaced(rank_process, "die_when_closed", lambda reader: None)
NO_LOOK = replaced(Vigil, "_look_around", lambda vigil: None)


@pytest.mark.parametrize("without", [lambda: None, NO_KERNEL, all_of(NO_PIPE, NO_LOOK)], ids=["whole", "no-pdeathsig", "no-pipe"])
def test_nothing_outlives_a_killed_front_end(new_run, without):
    """C2."""
    assert survivors_of_the_front_end(new_run("run"), without) == 0


def test_without_both_ways_the_ranks_are_orphans(new_run):
    """Mutant of C2."""
    assert survivors_of_the_front_end(new_run("run"), all_of(NO_KERNEL, NO_PIPE, NO_LOOK), seconds=3) > 0


def test_without_the_front_ends_word_the_wrong_rank_is_blamed(new_run):
    """Mutant of C2."""
    run = new_run("run")
    start = run.start(*LONG, prepare=replaced(Crew, "_speak_for", lambda crew, rank, status: None))
    start.await_step(3)
    send(start.watchers[1], signal.SIGKILL)
    assert start.finish() == 5 and run.exit_json()["rank"] == 0


def test_what_a_rank_started_ends_with_it(new_run):
    """Also grandchildren that no longer have a parent, and that ignore signals."""
    def leaves_children():
        if os.fork() == 0:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                time.sleep(600)
            os._exit(0)

    run = new_run("run")
    start = run.start(*LONG, prepare=plant("data", leaves_children))
    start.await_step(3)
    below = descendants(start.front_end)
    assert len(below) >= 6
    send(start.rank(1), signal.SIGKILL)
    assert start.finish() == 137
    assert not [process for process in below if living(process)]


def test_a_last_save_that_fails_is_no_success(new_run):
    """Exit code 0 says that the checkpoint of the requested step is committed."""
    def full_disk():
        real = os.rename

        def rename(source, target, **options):
            if str(target).endswith("step-00000012"):
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
            real(source, target, **options)

        os.rename = rename

    run = new_run("run")
    start = run.start("train.steps=12", prepare=full_disk)
    assert start.finish() == 7
    assert run.exit_json()["code"] == 7 and run.exit_json()["reason"] == "storage"
    assert run.start("train.steps=12").finish() == 0


@pytest.mark.nightly
def test_a_rank_killed_for_memory_says_so_with_numbers(new_run):
    """C15."""
    def greedy():
        hog = bytearray(0)
        while True:
            hog += b"\1" * (32 << 20)

    run = new_run("run")
    with memory_group(limit=1 << 30) as join:
        start = run.start(*LONG, prepare=all_of(join, plant("data", greedy, rank=1)))
        begin = time.monotonic()
        assert start.finish(SLACK * 30) == 137
        assert time.monotonic() - begin < SLACK * 15
    (line,) = start.error_lines()
    assert "rank=1 " in line and "killed by signal 9 (SIGKILL), out of memory (its control group has used up to " in line
    assert "of 1.00 GiB)" in line


# C16: time.time() tells people and files when something was; it never decides how long to wait. Where it may be, and why.
WALL_CLOCK = {
    "core/tracking/tensorboard_sink.py": "when an event was, as TensorBoard shows it",
    "core/watching.py": "how long ago the metrics file changed, told to people",
    "launcher/commands/doctor.py": "to compare the clocks of machines",
    "launcher/doctor/facts.py": "the clock itself, and the ages of files and processes, told to people",
    "launcher/folder/lock_record.py": "since when a run has its folder, told to people",
    "launcher/slurm/history.py": "when a start of a job was, told to people",
    "launcher/processes.py": "when a process began, to compare with the time of change of exit.json",
}


def test_no_timeout_looks_at_the_wall_clock():
    """C16."""
    root = Path(parent_death.__file__).parents[1]
    found = {}
    for layer in ("conf", "core", "data", "launcher", "parallel"):
        for path in sorted((root / layer).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
                     and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today")]
            if calls:
                found[str(path.relative_to(root))] = [call.lineno for call in calls]
    assert set(found) <= set(WALL_CLOCK), f"the wall clock is read in {found}"
