"""Rows C2 to C5: signals to the front end, to a watcher, to one rank, in every moment."""

import signal

import pytest

from .rig import SLACK, send


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    from .rig import Run

    run = Run(tmp_path_factory.mktemp("reference"), corpus)
    assert run.start().finish() == 0
    return run.course()


def test_sigusr1_to_one_rank_saves_once_and_loses_no_step(new_run, reference):
    """C4."""
    run = new_run("run")
    start = run.start()
    start.await_step(3)
    send(start.rank(1), signal.SIGUSR1)
    assert start.finish() == 75
    assert run.exit_json()["reason"] == "preempted"
    assert run.start().finish() == 0
    assert run.course() == reference


def test_a_killed_watcher_takes_its_rank_along(new_run):
    """C2."""
    run = new_run("run")
    start = run.start()
    start.await_step(3)
    send(start.watchers[1], signal.SIGKILL)
    assert start.finish(SLACK * 15) == 137
