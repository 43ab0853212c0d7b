"""Row E7: a data set smaller than a batch or a sequence, empty, of weight 0; the border of an epoch at a kill; exactly used up."""

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.conf.errors import ConfigError
from hexareme.data.errors import DataError
from hexareme.data.order.stages import Stage
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.samples.loader import Loader
from hexareme.data.tokens.token_file import TokenFile, open_corpus

from ..token_files import write_corpus, write_tokens

S = 4


def training(tmp_path, tokens, *, weights=(1.0,), stages=()):
    """One source of each length."""
    files = []
    for number, count in enumerate(tokens):
        write_tokens(tmp_path / f"{number}", [list(range(count))])
        files.append(TokenFile(tmp_path / f"{number}"))
    return TrainingSet(list(zip(files, weights, strict=True)), sequence_length=S, seed=5, document_mask=True, stages=stages)


def targets(batch):
    return sorted(batch.targets_BS.ravel().tolist())


def test_e7_1_smaller_than_a_batch_goes_round(tmp_path):
    """Five windows under a batch of twelve: two epochs and two windows, each epoch with each window once."""
    batch = training(tmp_path, [S * 5]).batch(range(12))
    rows = batch.targets_BS.tolist()
    for epoch in (rows[:5], rows[5:10]):
        assert sorted(sum(epoch, [])) == list(range(S * 5))
    assert len({token for row in rows[10:] for token in row}) == 2 * S


@pytest.mark.parametrize("tokens", [1, S])
def test_e7_2_smaller_than_a_sequence_is_refused(tmp_path, tokens):
    """A window of S inputs and targets needs S + 1 tokens."""
    with pytest.raises(DataError, match=f"holds {tokens} tokens, at least {S + 1} are needed") as error:
        training(tmp_path, [tokens])
    assert error.value.exit_code == 3 and error.value.do
    assert len(targets(training(tmp_path, [S + 1]).batch([0, 1, 2]))) == 3 * S  # and no more than that


def test_e7_3_empty_is_refused(tmp_path):
    write_corpus(tmp_path / "empty", [])
    with pytest.raises(DataError) as error:
        TrainingSet([(open_corpus(tmp_path / "empty"), 1.0)], sequence_length=S, seed=0, document_mask=True)
    assert error.value.exit_code == 3 and error.value.do


def test_e7_4_a_weight_of_0_is_refused_by_name():
    with pytest.raises(ConfigError) as error:
        compose("train", ["experiment=debug", "data.train=[{path: a}, {path: b, weight: 0}]"])
    (problem,) = error.value.problems
    assert problem.key == "data.train" and "above 0" in problem.message and "leave out" in problem.do


def test_e7_5_a_source_without_weight_is_never_read(tmp_path):
    """It may even be too short; in a later stage, where it has a weight, it may not."""
    batch = training(tmp_path, [S * 9, 1], weights=(1.0, 0.0)).batch(range(50))
    assert set(batch.sources_B.tolist()) == {0}
    with pytest.raises(DataError, match="at least 5 are needed"):
        training(tmp_path, [S * 9, 1], weights=(1.0, 0.0), stages=[Stage(0, (1.0, 0.0), S), Stage(8, (0.0, 1.0), S)])


@pytest.mark.parametrize("seen", [9, 10, 11])
def test_e7_6_killed_at_the_border_of_an_epoch(tmp_path, seen):
    """Ten windows; a new process that goes on just before, at and just after the border reads what the first would have."""
    whole = training(tmp_path, [S * 10]).batch(range(30))
    with Loader(training(tmp_path, [S * 10]), local_samples=lambda step: range(seen + step, seen + step + 1), workers=1) as loader:
        again = [loader.batch(step).targets_BS[0].tolist() for step in range(30 - seen)]
    assert again == whole.targets_BS[seen:].tolist()
    for epoch in range(3):
        assert sorted(whole.targets_BS[10 * epoch : 10 * epoch + 10].ravel().tolist()) == list(range(S * 10))


def test_e7_7_exactly_used_up(tmp_path):
    """Sample 10 of ten windows is the first of another epoch: another order, and not sample 0 again."""
    found = training(tmp_path, [S * 10]).batch(range(20)).targets_BS
    assert sorted(found[:10].ravel().tolist()) == sorted(found[10:].ravel().tolist())
    assert found[:10].tolist() != found[10:].tolist()
    assert training(tmp_path, [S * 10]).order.taken(10).tolist() == [10]


def test_e7_8_a_stage_that_begins_where_an_epoch_ends(tmp_path):
    """The source of ten windows is used up at sample 10, where a stage takes the other; it comes back with its second epoch."""
    stages = [Stage(0, (1.0, 0.0), S), Stage(10, (0.0, 1.0), S), Stage(14, (1.0, 0.0), S)]
    found = training(tmp_path, [S * 10, S * 4], weights=(1.0, 0.0), stages=stages)
    sources, numbers = found.order.locate(np.arange(24))
    assert sources.tolist() == [0] * 10 + [1] * 4 + [0] * 10 and numbers[14:].tolist() == list(range(10, 20))
    assert targets(found.batch(range(14, 24))) == list(range(S * 10))
