"""Row C7 and `run.restarts`: a crash costs at most an interval, a crash loop ends."""

import os
import signal
from functools import partial

import pytest
from hexareme.launcher import supervisor
from hexareme.launcher.supervisor import start_supervised

from .planted import PLACES, all_of, dies, replaced
from .rig import SLACK, send


def crashes_at(step, folder, *, times, rank=1):
    """SIGKILL of a rank in the forward pass of a step, in so many attempts."""
    def action():
        begun = sorted(folder.glob("crash-*"))
        if len(begun) < times:
            dies(folder / f"crash-{len(begun)}")()

    owner, name, _ = PLACES["forward"]

    def prepare():
        original = getattr(owner, name)

        def forward(model, batch, *arguments):
            if int(batch.step) == step and model.training and int(os.environ["RANK"]) == rank:
                action()
            return original(model, batch, *arguments)

        setattr(owner, name, forward)

    return prepare


def supervised(new_run, restarts):
    return new_run("run", start_function=partial(start_supervised, restarts=restarts, backoff_seconds=0.1))


def test_a_crash_is_restarted_and_nothing_is_different(new_run, reference):
    run = supervised(new_run, 5)
    start = run.start(prepare=crashes_at(23, run.folder, times=1))
    assert start.finish() == 0, start.text()
    ended = run.exit_json()
    assert ended["code"] == 0 and [(each["code"], each["rank"]) for each in ended["attempts"]] == [(137, 1), (0, 0)]
    (line,) = [line for line in start.text().splitlines() if line.startswith("RESTART ")]
    assert line.startswith("RESTART 1 of 5 ") and "from step 20: exit code 137, rank 1" in line
    assert run.course() == reference


def loop(run, prepare=lambda: None):
    """Row C7: a fault at the same step each time; the exit code, and how many starts it took."""
    start = run.start(prepare=all_of(prepare, crashes_at(13, run.folder, times=6)))
    return start.finish(SLACK * 60), len(list(run.folder.glob("crash-*")))


def test_a_crash_loop_ends_after_three_restarts(new_run):
    """C7."""
    run = supervised(new_run, 1000)
    assert loop(run) == (137, 4)
    ended = run.exit_json()
    assert ended["code"] == 137 and [each["code"] for each in ended["attempts"]] == [137] * 4
    assert "3 restarts brought no checkpoint after step 10" in run.starts[0].error_lines()[-1]


@pytest.mark.nightly
def test_without_the_rule_of_progress_it_goes_on(new_run):
    """Mutant of C7."""
    assert loop(supervised(new_run, 1000), replaced(supervisor, "MOST_FUTILE", 10**9)) == (0, 6)


def test_a_preempted_run_is_not_restarted(new_run, reference):
    run = supervised(new_run, 5)
    start = run.start()
    start.await_step(3)
    send(start.front_end, signal.SIGTERM)
    assert start.finish() == 75
    assert "attempts" not in run.exit_json() and "RESTART" not in start.text()
    assert run.start().finish() == 0
    assert run.course() == reference


@pytest.mark.nightly
def test_a_killed_watcher_is_restarted_too(new_run, reference):
    run = supervised(new_run, 5)
    start = run.start()
    start.await_step(12)
    send(start.watchers[0], signal.SIGKILL)
    assert start.finish() == 0, start.text()
    assert [each["code"] for each in run.exit_json()["attempts"]] == [137, 0]
    assert run.course() == reference


@pytest.mark.nightly
def test_an_unpromised_restart_is_refused(new_run):
    """No front end of ours stands above: the ranks say so before they start."""
    from .rig import start_local

    def foreign(overrides, *, ranks, directory, start):
        def without_us(words, variables):
            return start(words, {name: value for name, value in variables.items() if name != "HEXAREME_ATTEMPT"})

        return start_local(overrides, ranks=ranks, directory=directory, start=without_us)

    run = new_run("run", start_function=foreign)
    start = run.start("run.restarts=3")
    assert start.finish() == 2
    assert "run.restarts=3 needs `hexareme train` above the ranks" in start.error_lines()[0]
