"""Whole runs with W&B: the offline file holds every step, and a server that fails changes nothing."""

import pytest

from tests.core.tracking.helpers import offline_rows
from tests.core.tracking.wandb_server import WandbServer

OVERRIDES = ["experiment=debug", "train.steps=12", "schedule.warmup_steps=1", "evaluation.interval=0"]


def test_offline_holds_the_loss_of_every_step(corpus, user):
    code, out, err = user.hexareme("train", *OVERRIDES, f"data.train={corpus}", "run.name=offline", "tracking.wandb=offline")
    assert code == 0, out + err
    rows = {row["step"]: row["loss"] for row in offline_rows(user.folder / "runs/offline") if "loss" in row}
    assert rows == {step: loss for step, (loss, _) in user.steps("offline").items()}
    assert len(rows) == 12


@pytest.mark.parametrize("status", [500, None])
def test_online_against_a_failing_server_trains_on(status, corpus, user):
    """It answers 500, or is not there at all."""
    server = WandbServer(status or 200)
    if status is None:
        server.close()
    try:
        code, out, err = user.hexareme("train", *OVERRIDES, f"data.train={corpus}", "run.name=online", "tracking.wandb=online",
                                       WANDB_BASE_URL=server.url, WANDB_API_KEY="a" * 40)
    finally:
        if status is not None:
            server.close()
    assert code == 0, out + err
    assert err.count("WARNING") == 1, err
    assert user.exit_json("online")["reason"] == "completed"
    rows = [row["step"] for row in offline_rows(user.folder / "runs/online") if "loss" in row]
    assert rows == list(range(1, 13))
    assert "a" * 40 not in out + err + (user.folder / "runs/online/config.yaml").read_text()
