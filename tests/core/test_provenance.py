"""What wrote a checkpoint, and W&B's run id, which comes back where a folder has lost it."""

import pytest
from hexareme.conf.compose import compose
from hexareme.core.provenance import provenance, read_run_id, restore_run_id


def test_layout_version_and_precision_are_named(tmp_path):
    config = compose("train", ["experiment=debug", "data.train=none", f"run.directory={tmp_path}", "parallel.tp=2", "parallel.zero=2"])
    found = provenance(config, world_size=8)
    written = found["written_by"]
    assert (written["layout"], written["ranks"], written["precision"]) == ("tp 2 x pp 1 x cp 1 x dp 4, ep 1, ZeRO-2", 8, "fp32")
    assert written["hexareme"] and "wandb_run_id" not in found


def test_the_run_id_travels_with_the_checkpoint(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "wandb").mkdir(parents=True)
    (first / "wandb/run_id").write_text("a1b2c3d4\n")
    config = compose("train", ["experiment=debug", "data.train=none", f"run.directory={first}"])
    extra = provenance(config, world_size=1)
    assert extra["wandb_run_id"] == "a1b2c3d4"
    restore_run_id(second, extra)
    assert read_run_id(second) == "a1b2c3d4"
    restore_run_id(second, {"wandb_run_id": "other"})  # the folder's own stays
    assert read_run_id(second) == "a1b2c3d4"


@pytest.mark.parametrize("value", ["../x", "", "a" * 65, "a b", 7, None, "a\nb"])
def test_a_strange_id_is_not_taken_over(tmp_path, value):
    restore_run_id(tmp_path, {"wandb_run_id": value})
    assert not (tmp_path / "wandb").exists()
