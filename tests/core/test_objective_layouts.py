"""Objectives, mixtures, stages and ramp-ups on every axis: each loss and norm is that of a plain torch loop over the same samples."""

import json
from functools import cache

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.core.proof.ranks import maker
from hexareme.launcher import cli

from ..data.token_files import random_documents, write_tokens
from .layout_runs import SAME, chain, composed, course_of, difference, evaluated, plain, samples_of, start

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FIM = "data.objective={name:fill_in_the_middle,sentinels:[509,510,511],rate:0.9}"
MIDDLE = "data.objective={name:fill_in_the_middle,sentinels:[509,510,511],rate:0.9,targets:middle}"
SPANS = "data.objective={name:span_corruption,sentinels:[500,501,502,503,504,505,506,507,508]}"
OBJECTIVES = {"fim": FIM, "middle": MIDDLE, "spans": SPANS}
LAYOUTS = {
    "tp2": (2, "parallel.tp=2"),
    "pp2": (2, "parallel.pp=2"),
    "cp2": (2, "parallel.cp=2"),
    "dp2": (2, "parallel.zero=2 batch.micro_size=1"),
}
WIDER = {
    "one process, micro-batches of 4": (1, "parallel.zero=0 batch.micro_size=4"),
    "dp2, ZeRO-3": (2, "parallel.zero=3"),
    "cp2, ulysses": (2, "parallel.cp=2 parallel.context_attention=ulysses"),
    "tp2 x pp2": (4, "parallel.tp=2 parallel.pp=2"),
    "pp2 x cp2": (4, "parallel.pp=2 parallel.cp=2"),
    "tp2 x cp2 x dp2, ZeRO-2": (8, "parallel.tp=2 parallel.cp=2 parallel.zero=2"),
}
DEEPER = {  # pipelines of four stages: some see neither the tokens nor the loss
    "pp4": (4, "parallel.pp=4"),
    "pp2, zbv": (2, "parallel.pp=2 parallel.schedule=zbv"),
}
# Mixtures, pieces and sizes that change: stages from steps 1, 4 and 6, sizes 4, 4, 8, 8 and so on
STAGED = ("data.train=[{{path:{0}/a,weight:3}},{{path:{0}/b,weight:1}}] data.document_mask=true "
          "data.stages=[{{from_step:3,train:[{{path:{0}/a,weight:1}},{{path:{0}/b,weight:2}}]}},{{from_step:5,sequence_length:32}}] "
          "batch.ramp_up={{start:4,increment:4,samples:8}} train.steps=7 data.validation=none ")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two sources, and a third to validate on: documents of 1 to 60 tokens."""
    folder = tmp_path_factory.mktemp("corpora")
    for seed, (name, count) in enumerate({"a": 120, "b": 60, "c": 20}.items()):
        write_tokens(folder / name, random_documents(count, 60, 500, seed))
    return folder


def words_of(corpora, name):
    return f"data.train={corpora}/a data.validation={corpora}/c {OBJECTIVES[name]}"


@pytest.fixture(scope="module")
def references(corpora, tmp_path_factory):
    """What a plain loop makes of an objective."""
    @cache
    def of(name):
        return plain(composed(tmp_path_factory.mktemp(name), words_of(corpora, name)))

    return of


def agrees(directory, reference):
    assert difference(directory, reference) < SAME
    assert samples_of(directory) == reference.samples


@pytest.mark.nightly
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", LAYOUTS | WIDER)
def test_a_layout_is_a_plain_loop(corpora, references, name, objective, tmp_path):
    ranks, overrides = (LAYOUTS | WIDER)[name]
    start(composed(tmp_path, f"{words_of(corpora, objective)} {overrides}"), ranks)
    agrees(tmp_path, references(objective))


@pytest.mark.nightly
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", DEEPER)
def test_more_stages_are_a_plain_loop(corpora, name, objective, tmp_path):
    ranks, overrides = DEEPER[name]
    deeper = f"{words_of(corpora, objective)} model.num_layers=4 {overrides}"
    start(composed(tmp_path / "run", deeper), ranks)
    agrees(tmp_path / "run", plain(composed(tmp_path / "plain", deeper)))


@pytest.mark.parametrize("objective", ["spans", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fim", "middle"))])
def test_killed_on_one_layout_it_goes_on_on_another(corpora, references, objective, tmp_path):
    """Each start but the last dies as its second step is done: the steps from the checkpoint on are made again by the next layout."""
    starts = [(*layout, dies) for layout, dies in zip(LAYOUTS.values(), (2, 3, 4, 0), strict=True)]
    chain(tmp_path, words_of(corpora, objective), starts)
    agrees(tmp_path, references(objective))
    found = evaluated(tmp_path)
    assert found["loss"] == pytest.approx(references(objective).validation[4], rel=SAME) and found["corpus"] == f"{corpora}/c"
    assert found["targets"] == ("targets of span_corruption" if objective == "spans" else "each next token")


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*LAYOUTS, "tp2 x pp2"])
def test_killed_in_each_step_it_ends_bit_for_bit_as_if_nobody_had(corpora, name, tmp_path):
    ranks, overrides = (LAYOUTS | WIDER)[name]
    words = words_of(corpora, "middle")
    start(composed(tmp_path / "whole", f"{words} {overrides}"), ranks)
    chain(tmp_path / "killed", words, [(ranks, overrides, dies) for dies in (1, 2, 3, 4, 0)])
    assert course_of(tmp_path / "killed") == course_of(tmp_path / "whole")
    assert samples_of(tmp_path / "killed") == samples_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def staged(corpora, tmp_path_factory):
    """Overrides of a run in three stages with a ramp-up, and what a plain loop makes of it."""
    words = STAGED.format(corpora) + FIM
    return words, plain(composed(tmp_path_factory.mktemp("staged"), words))


def test_killed_in_each_stage_on_tensor_and_pipeline_axes(staged, tmp_path):
    words, reference = staged
    chain(tmp_path, words, [(*WIDER["tp2 x pp2"], dies) for dies in (2, 4, 6, 0)])
    agrees(tmp_path, reference)
    assert [sum(step == each for step, _ in reference.samples) for each in range(1, 8)] == [4, 4, 8, 8, 8, 8, 8]


@pytest.mark.nightly
def test_killed_in_each_stage_it_goes_on_on_another_layout(staged, tmp_path):
    words, reference = staged
    starts = [(*WIDER["tp2 x pp2"], 2), (*LAYOUTS["cp2"], 4), (*LAYOUTS["pp2"], 5), (*LAYOUTS["dp2"], 6), (*WIDER["tp2 x pp2"], 0)]
    chain(tmp_path, words, starts)
    agrees(tmp_path, reference)


@pytest.mark.parametrize("name", ["span_corruption", pytest.param("fill_in_the_middle", marks=pytest.mark.nightly)])
def test_a_proof_is_one_of_the_objective(name, tmp_path, capsys):
    words = ["prove", "experiment=debug", "steps=2", f"data.objective.name={name}", "parallel.tp=2", "parallel.pp=2", "batch.micro_size=1"]
    assert cli.main([*words, "only=tp2 x pp2, ZeRO-1, SP", f"output={tmp_path / 'proof.json'}"]) == 0, capsys.readouterr().out
    assert json.loads((tmp_path / "proof.json").read_text())["agrees"]
    made, plain = (maker(compose("train", ["experiment=debug", "data.train=made", *more]))(range(4)) for more in (words[3:4], []))
    assert not np.array_equal(made.loss_mask_BS, plain.loss_mask_BS) and made.tokens_BS.max() > 470  # sentinels are the last ids of 512
