"""What follows when a job's ranks have ended: pure rules, and Slurm's programs where they fail."""

import os

import pytest
from hexareme.core.errors import PortError
from hexareme.launcher.slurm import job as job_module
from hexareme.launcher.slurm.allocation import read_allocation
from hexareme.launcher.slurm.decide import Ended, decide, seen_by_slurm
from hexareme.launcher.slurm.history import ENDED, STARTED, SUBMITTED, History, futile_restarts
from hexareme.launcher.slurm.jobs import starts
from hexareme.launcher.slurm.nodes import bad_nodes, node_of
from hexareme.launcher.slurm.step import true_code
from hexareme.launcher.slurm.tools import SlurmError, call, fields_of, is_job


def ended(code, **changes):
    return Ended(**{"code": code, "asked": False, "futile": 0, "progress": False, "by_slurm": False, "restarts": 0, **changes})


@pytest.mark.parametrize(("end", "requeue"), [
    (ended(0), False), (ended(75), True), (ended(143, asked=True), True), (ended(0, asked=True), False),
    (ended(2), False), (ended(3), False), (ended(4), False), (ended(8), False), (ended(8, asked=True), True),
    (ended(137), True), (ended(5), True), (ended(1), True),
    (ended(137, futile=2), True), (ended(137, futile=3), False), (ended(137, futile=3, progress=True), True),
    (ended(75, futile=3), True), (ended(75, by_slurm=True), False), (ended(137, by_slurm=True), False),
    (ended(137, restarts=1), False), (ended(75, restarts=1), False),
])
def test_the_table(end, requeue):
    assert decide(end, restart=0, allowed=True).requeue is requeue
    assert decide(end, restart=0, allowed=False).requeue is False


def rows(*events):
    """S: submitted; a number: started at that step; e75: ended with 75."""
    found = []
    for event in events:
        if event == "S":
            found.append({"event": SUBMITTED, "job": "7"})
        elif isinstance(event, int):
            found.append({"event": STARTED, "job": "7", "step": event})
        else:
            found.append({"event": ENDED, "job": "7", "code": int(event[1:])})
    return found


@pytest.mark.parametrize(("events", "futile"), [
    ([], 0), (["S", 0], 0), (["S", 0, "e137", 0], 1), (["S", 0, "e137", 0, "e137", 0, "e137", 0], 3),
    (["S", 0, "e137", 0, "e137", 10, "e137", 10], 1), (["S", 0, "e75", 0, "e75", 0], 0), (["S", 0, 0, 0], 2),
    (["S", 0, "e137", 0, "S", 0], 0), (["S", 10, "e137", 10, "e75", 10], 1),
])
def test_restarts_without_progress(events, futile):
    """C7. A start without an end lost its node, which is a crash."""
    assert futile_restarts(rows(*events)) == futile


def test_a_crash_loop_ends():
    """C7: the first start, and three more."""
    told, count = rows("S"), 0
    while True:
        told += rows(10)
        count += 1
        if not decide(ended(137, futile=futile_restarts(told), restarts=count - 1), restart=count - 1, allowed=True).requeue:
            break
        told += rows("e137")
    assert count == 4


@pytest.mark.parametrize(("code", "told", "true"), [
    (0, {"code": 0}, 0), (0, {"code": 75}, 75), (143, {"code": 137}, 137), (143, {"code": 0}, 143), (143, {}, 143), (0, {}, 1),
    (5, {"code": None}, 5), (5, {"code": True}, 5)])
def test_the_first_cause_counts(code, told, true):
    """srun ends the others by SIGTERM, and tells the greatest code: 143."""
    assert true_code(code, told) == true


def test_what_slurm_says_of_a_job():
    line = "JobId=7 JobName=a JobState=COMPLETING Reason=TimeLimit Dependency=(null) Comment=two words Restarts=3 ReqB:S:C:T=0:0:*:*"
    found = fields_of(line)
    assert found["Comment"] == "two words" and found["Restarts"] == "3" and found["ReqB:S:C:T"] == "0:0:*:*"
    assert seen_by_slurm(found) == (False, 3)
    assert seen_by_slurm(found | {"Reason": "None"}) == (True, 3)
    assert seen_by_slurm(found | {"JobState": "RUNNING"}) == (False, 3) and seen_by_slurm({}) == (False, 0)


def test_job_ids():
    assert is_job("12") and is_job("12_3")
    assert not any(map(is_job, ("", "_", "12_", "-1", "12;ls", "1 2", "²", "--me")))


def test_the_allocation():
    variables = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "1"}
    found = read_allocation(variables)
    assert (found.job, found.nodes, found.restart, found.node_list) == ("12", 2, 1, "n[1-2]")
    assert read_allocation(variables | {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "1"}).job == "11_1"
    with pytest.raises(PortError):
        read_allocation({})


def fake(folder, name, text, monkeypatch):
    """A program of that name, first on the PATH."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_failing_scontrol_is_reported(tmp_path, monkeypatch, capsys):
    """C6: the job ends as it would, and the user is told how to go on."""
    fake(tmp_path, "scontrol", f"echo \"$@\" > {tmp_path}/words; echo 'Requested operation is disabled' >&2; exit 1", monkeypatch)
    job_module.requeue("7", 20)
    said = capsys.readouterr().err
    assert (tmp_path / "words").read_text() == "requeue 7\n"
    assert "could not be requeued" in said and "Requested operation is disabled" in said and "goes on from step 20" in said
    assert job_module.ask("7") == (False, 0)


def failed(node, code=137):
    return {"event": ENDED, "job": "7", "code": code, "rank": 2, "node": node, "what": "killed"}


@pytest.mark.parametrize(("told", "bad"), [
    ([], []), ([failed("n2")], []), ([failed("n2"), failed("n2")], ["n2"]), ([failed("n1"), failed("n2")], []),
    ([failed("n2"), *rows("S"), failed("n2")], []), ([failed("n2", 75), failed("n2", 75)], []), ([failed(""), failed("")], []),
    ([failed("n2"), failed("n1"), failed("n2")], ["n2"]),
])
def test_bad_nodes(told, bad):
    found = bad_nodes(told)
    assert list(found) == bad and all("2 failures began there" in why and "rank 2: killed" in why for why in found.values())


def test_the_node_of_a_rank():
    assert [node_of(rank, ["n1", "n2"], 2) for rank in (0, 1, 2, 3, 4, -1, None, True)] == ["n1", "n1", "n2", "n2", "", "", "", ""]


def test_a_missing_or_silent_program(tmp_path, monkeypatch):
    with pytest.raises(SlurmError, match="no `no-such-program` on the PATH"):
        call(["no-such-program"])
    fake(tmp_path, "scontrol", "exec sleep 5", monkeypatch)
    with pytest.raises(SlurmError, match="has not answered within 0 s"):
        call(["scontrol", "ping"], seconds=0.2)


def test_the_history_survives_a_torn_line(tmp_path):
    history = History(tmp_path)
    assert history.rows() == []
    history.add(STARTED, {"job": "7", "step": 0, "restart": 0, "nodes": "n1"})
    with history.path.open("a") as stream:
        stream.write('{"event": "ended", "jo')
    history.add(ENDED, {"job": "7", "step": 4, "code": 137, "why": "exit code 137"})
    assert [row["event"] for row in history.rows()] == [STARTED, ENDED]
    assert starts(history.rows(), "7") == [{"restart": 0, "nodes": "n1", "from_step": 0, "to_step": 4, "code": 137, "why": "exit code 137"}]
    assert starts(history.rows(), "8") == []
