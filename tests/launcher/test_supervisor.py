"""When ranks are started again, and when not: the decisions by themselves, and the supervisor around attempts that only pretend."""

import json
import signal
import threading

import pytest
from hexareme.conf.errors import ConfigError
from hexareme.core.checkpoint.manifest import MANIFEST
from hexareme.launcher.environment import Environment, FrontEnd
from hexareme.launcher.local import Attempt
from hexareme.launcher.supervisor import MOST_FUTILE, Patience, newest_step, require_supervisor, supervise
from hypothesis import given
from hypothesis import strategies as st

AGAIN = (1, 5, 6, 7, 9, 134, 135, 137, 139)
FINAL = (0, 2, 3, 4, 8, 75, 129, 130, 138, 143)


@pytest.mark.parametrize("code", AGAIN)
def test_a_crash_is_tried_again(code):
    assert Patience(1, 0).refusal(code, asked=None, step=0) is None


@pytest.mark.parametrize("code", FINAL)
def test_what_another_start_cannot_change_is_final(code):
    assert Patience(1000, 0).refusal(code, asked=None, step=50) == f"exit code {code} is not restarted"


@pytest.mark.parametrize("code", AGAIN)
def test_nothing_is_restarted_that_somebody_asked_to_stop(code):
    assert "SIGTERM" in (Patience(1000, 0).refusal(code, asked=signal.SIGTERM, step=50) or "")


def test_no_restarts_is_the_default():
    assert Patience(0, 0).refusal(137, asked=None, step=10) == "run.restarts is used up"


@given(steps=st.lists(st.integers(0, 3), min_size=1, max_size=60), restarts=st.integers(0, 50))
def test_restarts_are_bounded_and_progress_renews_them(steps, restarts):
    """Checked against its definition: the run ends with the first three restarts in a row that brought no newer checkpoint."""
    patience, reached, futile = Patience(restarts, 0), 0, 0
    for made, gained in enumerate(steps):
        futile = 0 if gained else futile + (made > 0)
        reached += gained
        refused = patience.refusal(137, asked=None, step=reached)
        assert (refused is not None) == (futile >= MOST_FUTILE or made == restarts)
        if refused:
            return


def checkpoint(directory, step, *, whole=True):
    folder = directory / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    if whole:
        (folder / MANIFEST).touch()


def test_progress_is_the_newest_committed_checkpoint(tmp_path):
    assert newest_step(tmp_path) == 0
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 30, whole=False)
    (tmp_path / "checkpoints" / ".step-00000040.x.tmp").mkdir()
    assert newest_step(tmp_path) == 20


class Attempts:
    """Attempts that end as told: (code, step of a checkpoint that they leave, or 0)."""

    def __init__(self, directory, *ends):
        self.directory, self.ends, self.made = directory, list(ends), 0

    def __call__(self) -> Attempt:
        assert not (self.directory / "exit.json").exists(), "the end of the attempt before still lies there"
        code, step = self.ends[self.made]
        self.made += 1
        if step:
            checkpoint(self.directory, step)
        reason = "killed" if code else "completed"
        cause = {"code": code, "reason": reason, "rank": 1, "step": step + 5, "what": "it broke", "do": "mend it"}
        (self.directory / "exit.json").write_text(json.dumps(cause))
        return Attempt(code=code, asked=None, cause=cause)


def run(directory, *ends, restarts=10):
    attempts = Attempts(directory, *ends)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        code = supervise(attempts, directory=directory, restarts=restarts, backoff_seconds=0.001)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return code, attempts.made


def test_a_run_that_recovers_is_a_success_that_tells_of_its_attempts(tmp_path, capsys):
    assert run(tmp_path, (137, 10), (5, 20), (0, 40)) == (0, 3)
    ended = json.loads((tmp_path / "exit.json").read_text())
    assert ended["code"] == 0 and [each["code"] for each in ended["attempts"]] == [137, 5, 0]
    assert ended["attempts"][0] == {"code": 137, "reason": "killed", "rank": 1, "step": 15}
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("RESTART 1 of 10 ") and "from step 10: exit code 137, rank 1, step 15: it broke" in first
    assert second.startswith("RESTART 2 of 10 ") and "from step 20" in second


def test_a_fault_at_the_same_step_ends_after_three_restarts(tmp_path, capsys):
    assert run(tmp_path, (6, 10), *[(6, 0)] * 20, restarts=1000) == (6, 1 + MOST_FUTILE)
    assert len(json.loads((tmp_path / "exit.json").read_text())["attempts"]) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ERROR 6 rank=1 ") and "3 restarts brought no checkpoint after step 10" in last


def test_no_more_restarts_than_allowed(tmp_path):
    assert run(tmp_path, (137, 10), (137, 20), (137, 30), (0, 40), restarts=2) == (137, 3)


def test_one_attempt_leaves_exit_json_as_it_is(tmp_path, capsys):
    assert run(tmp_path, (137, 10), restarts=0) == (137, 1)
    assert "attempts" not in json.loads((tmp_path / "exit.json").read_text()) and capsys.readouterr().err == ""


def test_somebody_elses_folder_keeps_its_exit_json(tmp_path):
    assert run(tmp_path, (9, 0), (8, 0)) == (8, 2)
    assert "attempts" not in json.loads((tmp_path / "exit.json").read_text())


def test_a_signal_between_attempts_ends_the_run(tmp_path):
    attempts = Attempts(tmp_path, (137, 10), (0, 40))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # pending while blocked; other threads of the tests do not block it
        assert supervise(attempts, directory=tmp_path, restarts=10, backoff_seconds=30) == 137
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert attempts.made == 1


def place(front_end, *, supervised):
    return Environment(rank=0, world_size=1, local_rank=0, local_world_size=1, master_address="x", master_port=1, front_end=front_end,
                       supervised=supervised)


@pytest.mark.parametrize("front_end", [FrontEnd.torchrun, FrontEnd.deepspeed, FrontEnd.slurm, FrontEnd.python])
def test_restarts_without_anybody_to_restart_are_refused(front_end):
    require_supervisor(0, place(front_end, supervised=False))
    require_supervisor(3, place(front_end, supervised=True))
    with pytest.raises(ConfigError, match=r"run.restarts=3 needs `hexareme train`"):
        require_supervisor(3, place(front_end, supervised=False))
