"""Which corpus a saved model is judged on, and what cannot be."""

import pytest
from hexareme.conf.compose import compose, dump_yaml
from hexareme.core.evaluation_data import judged_source, open_judged
from hexareme.data.errors import DataError

from ..data.token_files import random_documents, write_tokens
from .test_corpus_tasks import corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that validates on a corpus of its own."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(dump_yaml(compose("train", ["experiment=debug", "data.train=a", "data.validation=b"])))
    return folder


@pytest.mark.parametrize(("corpus", "part", "found"), [
    ("", "validation", ("b", "train")), ("", "train", ("a", "train")),
    ("c", "validation", ("c", "validation")), ("c", "train", ("c", "train")),
])
def test_what_the_run_validates_on_unless_another_is_asked_for(run, corpus, part, found):
    assert judged_source(run, trained_on="a", corpus=corpus, part=part) == found


def test_a_checkpoint_far_from_its_run_is_judged_on_what_its_corpus_holds_out(tmp_path):
    assert judged_source(tmp_path, trained_on="a", corpus="", part="validation") == ("a", "validation")


def judged(path, *overrides):
    config = compose("train", ["experiment=debug", "data.train=a", *overrides])
    return open_judged(str(path), "train", objective=config.data.objective, model=config.model, document_mask=False,
                       first=lambda opening: opening())


def test_a_corpus_without_a_loss_of_next_tokens_is_refused(tmp_path):
    with pytest.raises(DataError, match="task=classification"):
        judged(corpus(tmp_path / "c", kind="classification"))


def test_the_targets_are_those_of_the_training(tmp_path):
    write_tokens(tmp_path / "a", random_documents(20, 60, 500))
    sentinels = "sentinels:[500,501,502,503,504,505,506,507,508]"
    plain = judged(tmp_path / "a")
    spans = judged(tmp_path / "a", f"data.objective={{name:span_corruption,{sentinels}}}")
    assert (plain.targets, spans.targets) == ("each next token", "targets of span_corruption")
    counts = [int(each.windows.batch(range(len(each.windows))).loss_mask_BS.sum()) for each in (plain, spans)]
    assert 0 < counts[1] < counts[0] / 2
