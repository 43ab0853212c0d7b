"""What a real Slurm makes of a submission, whatever its folder is called; no job starts here."""

import pytest

from .user import ENDED, SlurmRun

pytestmark = pytest.mark.nightly  # until issue 6 ends: a rig of minutes on two loaded cores
ODD = "a b'c\"d#é&;$x (1)"


@pytest.fixture
def closed(rig):
    """Jobs stay in the queue."""
    rig.on("n0", "scontrol", "update", "NodeName=n[1-2]", "State=drain", "Reason=test")
    yield rig
    rig.on("n0", "scontrol", "update", "NodeName=n[1-2]", "State=resume")


def test_an_odd_folder_and_a_chain(closed, corpus, tmp_path):
    """F2: the log's path and the working folder arrive letter by letter; each job of a chain waits for the one before it."""
    (tmp_path / ODD).mkdir()
    run = SlurmRun(closed, tmp_path / ODD, corpus, "chain=3", "cluster.time_limit=20", "cluster.memory=512M", "cluster.requeue=false")
    try:
        run.submit()
        assert len(run.jobs) == 3
        for before, job in zip([None, *run.jobs], run.jobs, strict=False):
            shown = closed.job(job)
            assert shown["JobState"] == "PENDING" and (before is None or f"afterany:{before}" in shown["Dependency"])
            assert shown["WorkDir"] == str(run.folder) and shown["TimeLimit"] == "00:20:00" and shown["Requeue"] == "0"
            assert shown["NumNodes"] in ("2", "2-2") and shown["MinMemoryNode"] == "512M"
            assert shown["StdOut"] == str(run.directory / "slurm" / f"job-{job}.log")
        assert f"job {run.job}: JobState PENDING" in run.hexareme("action=status")
        run.hexareme("action=cancel")
        assert run.word() in ENDED
    finally:
        run.close()


def test_a_wrong_config_is_refused_before_slurm_is_asked(closed, corpus, tmp_path):
    run = SlurmRun(closed, tmp_path, corpus)
    done = closed.attempt("n0", "hexareme", "submit", *run.overrides, "parallel.tp=3", "cluster.memory=lots", folder=tmp_path)
    assert done.returncode == 2 and "cluster.memory=lots is not of Slurm's form" in done.stderr and "parallel.tp" in done.stderr
    assert not run.directory.exists()


def test_what_slurm_refuses_is_said(closed, corpus, tmp_path):
    run = SlurmRun(closed, tmp_path, corpus, "cluster.partition=nowhere")
    done = closed.attempt("n0", "hexareme", "submit", *run.overrides, folder=tmp_path)
    assert done.returncode == 2 and "invalid partition" in done.stderr.lower()
