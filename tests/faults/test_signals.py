"""Rows C3 to C5: signals to the front end, to one rank, to all, in every moment of a run. One save, 75, and nothing is lost."""

import signal
import time

import pytest
from hexareme.core.checkpoint.folder import step_folders
from hexareme.launcher.local import Crew
from hexareme.launcher.rank import StopFlag

from .planted import all_of, plant, replaced, signals, sleeps
from .rig import SLACK, send

T0 = [("data", signal.SIGUSR1, 1), ("backward", signal.SIGTERM, 0), ("save", signal.SIGUSR1, None)]
PLACES = ("init", "data", "forward", "backward", "step", "evaluation", "save")
NIGHTLY = [case for place in PLACES for number in (signal.SIGUSR1, signal.SIGTERM) for rank in (0, 1, None)
           if (case := (place, number, rank)) not in T0]


def newest(run) -> int:
    folders = step_folders(run.directory / "checkpoints")
    return int(folders[0].name.removeprefix("step-")) if folders else 0


def lose_nothing(run, corpus, *, place, number, rank, prepare=lambda: None):
    """Row C4: a signal at a place of a run costs no step."""
    start = run.start(f"data.validation={corpus}", "evaluation.interval=15", "evaluation.samples=64",
                      prepare=all_of(prepare, plant(place, signals(number), rank=rank)))
    assert start.finish() == 75, start.text()
    assert run.exit_json()["reason"] == "preempted"
    usual = {"init": 0, "data": 0, "save": 20, "evaluation": 15}.get(place, 13)
    assert newest(run) == run.last_step(), "a step was lost"
    assert usual <= newest(run) <= usual + 2
    assert run.start(f"data.validation={corpus}", "evaluation.interval=15", "evaluation.samples=64").finish() == 0
    evaluated = [row["step"] for row in run.metrics() if "validation_loss" in row]
    assert evaluated == [15, 30, 40]


@pytest.mark.parametrize(("place", "number", "rank"), [*T0, *(pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY)])
def test_a_signal_to_a_rank_saves_once_and_loses_no_step(new_run, corpus, reference, place, number, rank):
    """C4."""
    run = new_run("run")
    lose_nothing(run, corpus, place=place, number=number, rank=rank)
    assert run.course() == reference


@pytest.mark.parametrize("number", [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.nightly) for each in
                                                      (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))])
def test_a_signal_to_the_front_end_alone_saves_within_two_steps(new_run, reference, number):
    """C3."""
    run = new_run("run")
    start = run.start()
    start.await_step(3)
    before, begin = run.last_step(), time.monotonic()
    send(start.front_end, number)
    assert start.finish() == 75
    assert time.monotonic() - begin < 30
    assert newest(run) == run.last_step() <= before + 2 + 2  # the file is read a moment before the signal is sent
    assert run.start().finish() == 0
    assert run.course() == reference


def test_a_second_interrupt_ends_the_run_at_once(new_run):
    """C3."""
    run = new_run("run")
    start = run.start("checkpoint.interval=0", prepare=plant("save", sleeps(60), call=1))
    start.await_step(3)
    send(start.front_end, signal.SIGINT)
    time.sleep(0.8)
    send(start.front_end, signal.SIGINT)
    assert start.finish(SLACK * 15) == 130
    assert run.exit_json()["code"] == 130


def test_more_signals_do_not_restart_the_save(new_run, reference):
    """C5."""
    run = new_run("run")
    again = plant("save", signals(signal.SIGTERM, signal.SIGUSR1), call=2)  # the first one was at step 10
    start = run.start(prepare=all_of(plant("forward", signals(signal.SIGTERM)), again))
    assert start.finish() == 75
    assert newest(run) == run.last_step() and start.text().count("checkpoint /") == 2
    assert run.start().finish() == 0
    assert run.course() == reference


def test_a_save_beyond_the_grace_leaves_the_checkpoint_before(new_run, reference):
    """C5."""
    run = new_run("run")
    start = run.start("run.stop_grace=3", prepare=plant("save", sleeps(60)))
    start.await_step(20)
    begin = time.monotonic()
    send(start.front_end, signal.SIGTERM)
    assert start.finish(SLACK * 15) == 143
    assert 2.5 < time.monotonic() - begin < SLACK * 10
    assert newest(run) == 10
    assert run.start().finish() == 0
    assert run.course() == reference


@pytest.mark.parametrize("samples", [0])
def test_an_evaluation_does_not_eat_the_grace(new_run, corpus, reference, samples):
    """C5: it is cut short, and made up for at the next start."""
    run = new_run("run")
    overrides = (f"data.validation={corpus}", "evaluation.interval=12", f"evaluation.samples={samples}", "train.stop_at=14")
    start = run.start(*overrides, prepare=plant("evaluation", signals(signal.SIGTERM), rank=1))
    assert start.finish() == 75
    assert newest(run) == run.last_step() == 12 and "validation" not in start.text()
    assert run.start(*overrides).finish() == 0
    assert [row["step"] for row in run.metrics() if "validation_loss" in row] == [12, 14]
    assert run.start().finish() == 0
    assert run.course() == reference


def test_without_forwarding_the_run_does_not_stop(new_run):
    """Mutant of C3."""
    run = new_run("run")
    start = run.start(prepare=replaced(Crew, "_send", lambda crew, number: None))
    start.await_step(3)
    send(start.front_end, signal.SIGTERM)
    assert start.finish() == 0


def test_without_the_flag_steps_are_lost(new_run, corpus):
    """Mutant of C4: the handler raises where the signal finds it."""
    def raises(flag, number, frame):
        raise KeyboardInterrupt

    with pytest.raises(AssertionError):
        lose_nothing(new_run("run"), corpus, place="backward", number=signal.SIGTERM, rank=0, prepare=replaced(StopFlag, "_set", raises))
