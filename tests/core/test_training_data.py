"""The order that a config names: epochs as weights, stages that say only what changes, pieces in the samples; and what a resume keeps."""

from types import SimpleNamespace

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.core.checkpoint.agreement import differences
from hexareme.core.errors import CheckpointError
from hexareme.core.resume import agreed_config, refuse_moved_stages
from hexareme.core.training_data import open_training, order_stages
from hexareme.data.order.stages import Stage

from tests.data.token_files import random_documents, write_tokens

BASE = ["experiment=debug", "model.sequence_length=16", "batch.global_size=8"]
WINDOWS = {"a": 100, "b": 40, "c": 7}


def composed(*overrides, train="a"):
    return compose("train", [*BASE, f"data.train={train}", *overrides])


def test_one_corpus_is_one_stage():
    assert order_stages(composed(), {"a": 100}) == [Stage(0, (1.0,), 16)]


def test_epochs_are_shares_of_the_corpora():
    """Three epochs of a, and half a one of b: 300 samples beside 20."""
    (stage,) = order_stages(composed(train="[{path: a, epochs: 3}, {path: b, epochs: 0.5}]"), WINDOWS)
    assert stage.weights == (300.0, 20.0, 0.0)


def test_a_stage_says_only_what_changes():
    config = composed("data.stages=[{from_step: 0, sequence_length: 4}, {from_step: 5, train: [{path: c}, {path: a, weight: 3}]}, "
                      "{from_step: 9, sequence_length: 16}]", "batch.ramp_up={start: 4, increment: 4, samples: 12}", train="[a, b]")
    assert order_stages(config, WINDOWS) == [Stage(0, (1.0, 1.0, 0.0), 4), Stage(4 * 3 + 8 * 2, (3.0, 0.0, 1.0), 4),
                                             Stage(4 * 3 + 8 * 6, (3.0, 0.0, 1.0), 16)]


def test_a_curriculum_cuts_samples_and_keeps_tokens_and_shapes(tmp_path):
    write_tokens(tmp_path / "x", random_documents(40, 30, 500))
    whole, cut = (open_training(composed(*more, train=tmp_path / "x")).batch(range(24)) for more in
                  ([], ["data.stages=[{from_step: 0, sequence_length: 4}, {from_step: 2, sequence_length: 16}]"]))
    for name in ("tokens_BS", "targets_BS", "loss_mask_BS", "samples_B", "starts_B"):
        assert np.array_equal(getattr(whole, name), getattr(cut, name)), name
    assert np.array_equal(cut.positions_BS[:16], np.minimum(whole.positions_BS[:16], np.arange(16) % 4))
    same = [np.array_equal(cut.documents_BS[part], whole.documents_BS[part]) for part in (slice(16), slice(16, None))]
    assert same == [False, True]
    assert cut.positions_BS.max() > 4 and all((row[::4] == 0).all() for row in cut.positions_BS[:16])


RAMP, STAGED = "batch.ramp_up={start: 4, increment: 4, samples: 12}", "data.stages=[{from_step: 5, train: b}]"


@pytest.mark.parametrize(("saved", "now", "keys"), [
    ([], [RAMP], ["batch.ramp_up.increment", "batch.ramp_up.samples", "batch.ramp_up.start"]),
    ([RAMP], [RAMP.replace("12", "16")], ["batch.ramp_up.samples"]),
    ([RAMP], [], ["batch.ramp_up.increment", "batch.ramp_up.samples", "batch.ramp_up.start"]),
    ([], [STAGED], ["data.stages"]), ([STAGED], [STAGED.replace("5", "6")], ["data.stages"]), ([STAGED], [], ["data.stages"]),
    ([RAMP, STAGED], [RAMP, STAGED], []),
])
def test_a_resume_refuses_another_ramp_up_and_other_stages(saved, now, keys):
    before, after = (agreed_config(composed(*words)) for words in (saved, now))
    assert [each.key for each in differences(before, after)] == keys
    assert differences(before, after, allow=["batch.ramp_up", "data.stages"]) == []


def test_what_older_checkpoints_do_not_say_is_no_difference():
    assert "ramp_up" not in agreed_config(composed())["batch"] and "stages" not in agreed_config(composed())["data"]


@pytest.mark.parametrize("change", ["batch.global_size=16", RAMP])
def test_no_other_batch_size_under_stages_even_if_allowed(change):
    """Stages begin at samples: another batch would move those that are over."""
    newest = SimpleNamespace(config=agreed_config(composed(STAGED)), folder="step-00000004")
    refuse_moved_stages(composed(STAGED), newest)
    refuse_moved_stages(composed(change), SimpleNamespace(config=agreed_config(composed()), folder="x"))
    with pytest.raises(CheckpointError, match="would move the samples") as error:
        refuse_moved_stages(composed(STAGED, change), newest)
    assert error.value.exit_code == 4 and "initialize_from" in error.value.do
