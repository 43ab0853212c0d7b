"""Packed conversations on every axis: each loss and norm is that of a plain torch loop on one process, over the same rows."""

import pytest
from hexareme.core.evaluation_data import open_judged
from hexareme.data.finetune.prepare import prepare_task
from hexareme.data.finetune.settings import TaskRecipe
from hexareme.launcher import cli

from ..data.finetune.conftest import chat_tokenizer, conversations, write_lines
from .layout_runs import SAME, chain, composed, course_of, difference, evaluated, plain, samples_of, start

__all__ = ["chat_tokenizer"]  # a fixture of another folder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

S = 64
DP2 = "parallel.zero=2 batch.micro_size=1"
LAYOUTS = {
    "tp2": (2, "parallel.tp=2"),
    "pp2": (2, "parallel.pp=2"),
    "cp2": (2, "parallel.cp=2"),
    "dp2": (2, DP2),
}
WIDER = {
    "one process, micro-batches of 4": (1, "parallel.zero=0 batch.micro_size=4"),
    "dp2, ZeRO-3": (2, "parallel.zero=3"),
    "tp2 without sequence parallelism": (2, "parallel.tp=2 parallel.sequence_parallel=false"),
    "cp2, ulysses": (2, "parallel.cp=2 parallel.context_attention=ulysses"),
    "tp2 x pp2": (4, "parallel.tp=2 parallel.pp=2"),
    "tp2 x cp2": (4, "parallel.tp=2 parallel.cp=2"),
    "cp2 x dp2, ZeRO-3": (4, "parallel.cp=2 parallel.zero=3"),
    "pp2 x cp2": (4, "parallel.pp=2 parallel.cp=2"),
    "pp2 x dp2": (4, "parallel.pp=2 batch.micro_size=1"),
    "tp2 x pp2 x dp2": (8, "parallel.tp=2 parallel.pp=2 batch.micro_size=1"),
    "tp2 x cp2 x dp2, ZeRO-2": (8, "parallel.tp=2 parallel.cp=2 parallel.zero=2"),
}
DEEPER = {  # pipelines of four stages: some see neither the tokens nor the loss
    "pp4": (4, "parallel.pp=4"),
    "pp2, zbv": (2, "parallel.pp=2 parallel.schedule=zbv"),
    "pp2, interleaved": (2, "parallel.pp=2 parallel.schedule=interleaved_1f1b parallel.virtual_stages=2"),
}


@pytest.fixture(scope="module")
def words(chat_tokenizer, tmp_path_factory):
    """The overrides of a packed corpus."""
    folder = tmp_path_factory.mktemp("packed")
    file = write_lines(folder / "a.jsonl", conversations(80, median=3))
    recipe = TaskRecipe(kind="chat", tokenizer_kind="huggingface", tokenizer_path=str(chat_tokenizer), template="chatml",
                        sequence_length=S, held_out=0.1)
    corpus = prepare_task([str(file)], folder / "corpus", recipe, workers=1).folder
    return f"data.train={corpus} model.sequence_length={S} model.vocab_size=512"


@pytest.fixture(scope="module")
def reference(words, tmp_path_factory):
    """What a plain loop makes of it."""
    return plain(composed(tmp_path_factory.mktemp("plain"), words))


def agrees(directory, reference):
    assert difference(directory, reference) < SAME
    assert samples_of(directory) == reference.samples


@pytest.mark.nightly
@pytest.mark.parametrize("name", LAYOUTS | WIDER)
def test_a_layout_is_a_plain_loop(words, reference, name, tmp_path):
    ranks, overrides = (LAYOUTS | WIDER)[name]
    start(composed(tmp_path, f"{words} {overrides}"), ranks)
    agrees(tmp_path, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("name", DEEPER)
def test_more_stages_are_a_plain_loop(words, name, tmp_path):
    ranks, overrides = DEEPER[name]
    deeper = f"{words} model.num_layers=4 {overrides}"
    start(composed(tmp_path / "run", deeper), ranks)
    agrees(tmp_path / "run", plain(composed(tmp_path / "plain", deeper)))


def test_killed_on_one_layout_it_goes_on_on_another(words, reference, tmp_path):
    """Each start but the last dies as its second step is done: the steps from the checkpoint on are made again by the next layout."""
    starts = [(*layout, dies) for layout, dies in zip(LAYOUTS.values(), (2, 3, 4, 0), strict=True)]
    chain(tmp_path, words, starts)
    agrees(tmp_path, reference)
    found = evaluated(tmp_path)
    assert found["loss"] == pytest.approx(reference.validation[4], rel=SAME) and found["targets"] == "answers"


def test_examples_that_share_a_row_never_see_each_other_in_an_evaluation(words):
    """Also where the model was trained on text without a document mask."""
    config = composed("unused", words)
    judged = open_judged(config.data.train[0].path, "validation", objective=config.data.objective, model=config.model, document_mask=False,
                         first=lambda opening: opening())
    assert judged.document_mask and judged.targets == "answers"


@pytest.mark.nightly
def test_answers_have_no_bigram_model_beside_them(words, tmp_path, capfd):
    start(composed(tmp_path, f"{words} train.steps=1"), 1)
    assert cli.run(["evaluate", f"directory={tmp_path}", "baseline=bigram", "parallel.tp=2"]) == 2
    assert "is judged by its answers" in capfd.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*LAYOUTS, "tp2 x pp2", "tp2 x cp2"])
def test_killed_in_each_step_it_ends_bit_for_bit_as_if_nobody_had(words, name, tmp_path):
    ranks, overrides = (LAYOUTS | WIDER)[name]
    start(composed(tmp_path / "whole", f"{words} {overrides}"), ranks)
    chain(tmp_path / "killed", words, [(ranks, overrides, dies) for dies in (1, 2, 3, 4, 0)])
    assert course_of(tmp_path / "killed") == course_of(tmp_path / "whole")
    assert samples_of(tmp_path / "killed") == samples_of(tmp_path / "whole")


@pytest.mark.nightly
def test_a_proof_is_one_of_packed_rows(words, tmp_path, capsys):
    proof = ["prove", "experiment=debug", "steps=2", *words.split(), "parallel.tp=2", "parallel.pp=2", "batch.micro_size=1",
             "only=tp2 x pp2, ZeRO-1, SP", f"output={tmp_path / 'proof.json'}"]
    assert cli.main(proof) == 0, capsys.readouterr().out
    assert cli.main([*proof, "data.document_mask=false"]) == 2
    assert "lets examples that share a row attend to each other" in capsys.readouterr().err
