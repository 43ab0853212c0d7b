"""A run on two nodes with two ranks each, as a real Slurm starts, stops and requeues it."""

import json

import pytest

from .rig import wait_until
from .user import END_SECONDS, ENDED, STEP_SECONDS

NODES = ("n1", "n2")

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]  # until issue 6 ends: a rig of minutes on two loaded cores


def test_a_preempted_run_is_requeued_and_nothing_is_different(submitted, reference):
    """To the end on 2 x 2, with a preemption on the way: bit-identical to four ranks on one machine that nobody disturbed."""
    run = submitted("run")
    run.await_step(6)
    run.rig.on("n0", "scancel", "--signal=USR1", "--batch", run.job)
    run.await_requeue(1)
    assert run.await_end() == "COMPLETED", run.log()
    assert [(row["code"], row["requeue"], row["why"]) for row in run.history()] == [
        (75, True, "preempted"), (0, False, "the run has reached its end")], run.log()
    first, second = run.history("started")
    assert first["step"] == 0 and second["step"] == run.history()[0]["step"] >= 6 and second["restart"] == 1
    assert run.course() == reference
    shown = run.hexareme("action=status")
    assert "JobState COMPLETED" in shown and "exit code 75 (preempted)" in shown and "newest checkpoint 16" in shown
    assert "step 16/16" in run.hexareme("action=logs")


def test_cancel_leaves_nothing(submitted):
    run = submitted("run", "train.steps=400")
    run.await_step(2)
    assert all(run.tasks(node) for node in NODES)
    assert f"job {run.job} is cancelled" in run.hexareme("action=cancel")
    assert run.await_end() == "CANCELLED"
    assert not [run.rig.programs(node, "hexareme") for node in NODES if run.rig.programs(node, "hexareme")]
    assert [(row["code"], row["requeue"]) for row in run.history()] == [(75, False)], run.log()
    assert run.exit_json()["code"] == 75


def test_a_killed_rank_is_requeued(submitted, reference):
    """No step beyond one interval is lost, and what is trained again comes out the same."""
    run = submitted("run")
    run.await_step(9)
    rank = max(run.tasks("n2"))
    run.rig.on("n2", "kill", "-9", str(rank))
    run.await_requeue(1)
    (ended,) = run.history()
    assert ended["code"] == 137 and ended["rank"] in (2, 3) and ended["requeue"] and ended["step"] >= 8, run.log()
    assert run.await_end() == "COMPLETED", run.log()
    assert run.course() == reference


def test_an_array_of_three(submitted):
    run = submitted("run", "cluster.nodes=1", "cluster.ranks_per_node=1", "train.steps=4", "sweep=train.seed=0,1,2")
    members = [run.directory.with_name(f"run-{number}") for number in range(3)]
    wait_until(lambda: all((member / "exit.json").exists() for member in members), STEP_SECONDS)
    wait_until(lambda: all(run.word(of=f"{run.job}_{number}") in ENDED for number in range(3)), END_SECONDS)
    assert [run.word(of=f"{run.job}_{number}") for number in range(3)] == ["COMPLETED"] * 3
    last = [json.loads((member / "metrics.jsonl").read_text().splitlines()[-1]) for member in members]
    assert [row["step"] for row in last] == [4] * 3 and len({row["loss"] for row in last}) == 3
    assert all((run.directory / "slurm" / f"job-{run.job}_{number}.log").exists() for number in range(3))
    assert f"job {run.job}_2" in run.hexareme("action=status", f"run.directory={members[2]}", "sweep=")


@pytest.mark.nightly
def test_five_preemptions_in_a_row(submitted, reference):
    """C6."""
    run = submitted("run")
    for number in range(1, 6):
        run.await_step(2 * number)
        run.rig.on("n0", "scancel", "--signal=USR1", "--batch", run.job)
        run.await_requeue(number)
    assert run.await_end() == "COMPLETED", run.log()
    assert [row["code"] for row in run.history()] == [75] * 5 + [0]
    assert run.course() == reference


@pytest.mark.nightly
def test_a_node_that_fails_twice_is_avoided(submitted):
    run = submitted("run", "cluster.nodes=1", "cluster.ranks_per_node=2")
    for number, step in ((1, 5), (2, 9)):
        run.await_step(step)
        run.rig.on("n1", "kill", "-9", str(max(run.tasks("n1"))))
        run.await_requeue(number)
    assert run.await_end() == "COMPLETED", run.log()
    assert [row["nodes"] for row in run.history("started")] == ["n1", "n1", "n2"]
    assert "node n1 is avoided from now on: 2 failures began there, the last with exit code 137" in run.log()


@pytest.mark.nightly
def test_a_power_cut_of_a_node(submitted, reference):
    run = submitted("run")
    run.await_step(6)
    run.rig.power_off("n2")
    run.await_requeue(1, hurry=False)
    run.rig.power_on("n2")
    assert run.await_end(STEP_SECONDS) == "COMPLETED", run.log()
    assert [row["code"] for row in run.history()][-1] == 0 and run.history("started")[1]["step"] >= 4
    assert run.course() == reference


@pytest.mark.nightly
@pytest.mark.parametrize("node", NODES)
def test_a_killed_slurmd(submitted, node):
    """Slurm requeues the job while the ranks of that node live on: they give way, and never write beside the new ones."""
    run = submitted("run", "train.steps=2000", "checkpoint.interval=10")
    run.await_step(12)
    run.rig.kill_slurmd(node)
    run.await_requeue(1)
    run.rig.start_daemon(node)
    wait_until(lambda: len(run.history("started")) == 2, END_SECONDS)
    reached = run.last_step()
    assert run.history("started")[1]["step"] >= 10
    wait_until(lambda: run.last_step() > reached + 10 and len(run.losses()) == run.last_step(), STEP_SECONDS)  # each step stands once
    run.hexareme("action=cancel")
    assert run.await_end() == "CANCELLED", run.log()
