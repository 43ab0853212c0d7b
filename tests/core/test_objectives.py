"""Objectives in a config and in whole runs: what is refused, which ids they take, and equal courses on one rank and on two."""

import json
from types import SimpleNamespace

import pytest
from hexareme.conf.compose import compose, load_yaml
from hexareme.core.combine import problems
from hexareme.core.corpora import corpus_problems
from hexareme.core.engine.overhead import write_random_corpus
from hexareme.core.explain import explain_step
from hexareme.core.objectives import build_objective, validation_objective
from hexareme.core.resume import agreed_config
from hexareme.core.training_data import open_training, open_validation
from hexareme.data.errors import DataError

from ..data.token_files import random_documents, write_corpus
from .test_corpus_tasks import corpus as task_corpus
from .test_run import config_of, start, steps_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

FIM = "data.objective={name: fill_in_the_middle, sentinels: [509, 510, 511], rate: 0.9}"
SPANS = {f"<extra_id_{number}>": 600 + number for number in range(50)}


def composed(*overrides, train="a"):
    return compose("train", ["experiment=debug", f"data.train={train}", "model.vocab_size=1000", *overrides])


def named(folder, special, **more):
    """A corpus with a tokenizer beside it, as `prepare` describes it."""
    write_corpus(folder, random_documents(60, 60, 500), **more)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "description.json").write_text(json.dumps({"special_tokens": special}))
    return str(folder)


@pytest.mark.parametrize(("objective", "message"), [
    ("{name: masked_tokens}", "needs bidirectional attention, which comes with a later release"),
    ("{name: fill_in_the_middle, sentinels: [a, b]}", "has 2 entries, and data.objective.name=fill_in_the_middle has 3"),
    ("{name: fill_in_the_middle, sentinels: [a, b, a]}", "each of them once"),
    ("{name: span_corruption, sentinels: [1.5]}", "each of them once"),
    ("{sentinels: [a]}", "has no effect under data.objective.name=causal"),
    ("{name: span_corruption}", None), ("{name: fill_in_the_middle, sentinels: [a, 5, c]}", None),
])
def test_what_cannot_be_trained_is_refused_by_name(objective, message):
    found = [each for each in problems(composed(f"data.objective={objective}"), world_size=1) if each.key.startswith("data.objective")]
    assert [message in each.message for each in found] == [True] * (message is not None)


def test_packed_conversations_have_no_objective(tmp_path):
    config = composed(FIM, train=task_corpus(tmp_path / "c", kind="chat", sequence_length=64))
    assert [problem.key for problem in corpus_problems(config)] == ["data.objective.name"]


def built(config, paths):
    return build_objective(config.data.objective, config.model, paths)


def judged(config, path):
    return validation_objective(config.data.objective, config.model, path)


def test_sentinels_are_found_by_name(tmp_path):
    special = {"<|fim_prefix|>": 700, "<|fim_suffix|>": 701, "<|fim_middle|>": 702, **SPANS}
    paths = [named(tmp_path / name, special) for name in "ab"]
    fim = built(composed("data.objective.name=fill_in_the_middle"), paths)
    assert (fim.prefix, fim.suffix, fim.middle, fim.end_of_document) == (700, 701, 702, 0)
    config = composed("data.objective.name=span_corruption", "model.sequence_length=128", train=paths[0])
    spans = built(config, paths)
    assert spans.sentinels == tuple(range(600, 600 + spans.most_spans(128)))
    assert built(composed(), paths) is None
    assert judged(config, paths[0]) == spans
    assert judged(composed("data.objective.name=fill_in_the_middle"), paths[0]) is None


@pytest.mark.parametrize(("special", "objective", "message", "way"), [
    ({"<|endofdoc|>": 0}, "{name: fill_in_the_middle}", "has no special token <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|> (it has "
     "<|endofdoc|>)", "tokenizer.special_tokens=['<|fim_prefix|>','<|fim_suffix|>','<|fim_middle|>']"),
    ({}, "{name: fill_in_the_middle, sentinels: [1, 2, 1000]}", "no ids of", "below"),
    ({"x": 1, "y": 2, "z": 999}, "{name: fill_in_the_middle, sentinels: [x, y, z]}", "the id 999, but model.vocab_size=990",
     "set model.vocab_size=1000"),
    (SPANS, "{name: span_corruption, sentinels: ['<extra_id_0>']}", "has 1 entries, but a document may have 6 spans", "name 6"),
])
def test_a_missing_sentinel_is_an_error_with_a_way_out(tmp_path, special, objective, message, way):
    path = named(tmp_path / "c", special)
    with pytest.raises(DataError) as error:
        open_training(composed(f"data.objective={objective}", "model.vocab_size=990", "model.sequence_length=128", train=path))
    assert message in str(error.value) and way in error.value.do


def test_corpora_that_disagree(tmp_path):
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    paths = [named(tmp_path / name, dict(zip(marks, ids, strict=True))) for name, ids in (("a", (1, 2, 3)), ("b", (1, 2, 4)))]
    with pytest.raises(DataError, match="have other ids"):
        built(composed("data.objective.name=fill_in_the_middle"), paths)


def test_validation_of_span_corruption_counts_targets_only(tmp_path):
    path = named(tmp_path / "c", SPANS)
    config = composed("data.objective.name=span_corruption", "model.sequence_length=128", train=path)
    objective = judged(config, path)
    plain, by_objective = (open_validation(path, "train", sequence_length=128, document_mask=False, vocab_size=1000, objective=each)
                     for each in (None, objective))
    batches = [each.batch(range(len(each))) for each in (plain, by_objective)]
    assert 0.1 < batches[1].loss_mask_BS.sum() / batches[0].loss_mask_BS.sum() < 0.5
    tail = plain.file.num_tokens - 1 - 128 * (len(plain) - 1)
    assert tail < 128 and not batches[1].loss_mask_BS[-1, tail:].any()


def test_a_resume_keeps_to_its_objective():
    assert "objective" not in agreed_config(composed())["data"]
    assert agreed_config(composed(FIM))["data"]["objective"]["rate"] == 0.9


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three steps on one rank, the same on two, and on two without an objective."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = write_random_corpus(folder, vocab_size=512, tokens=1 << 13)
    found = SimpleNamespace()
    for name, world_size, overrides in (("one", 1, [FIM]), ("two", 2, [FIM]), ("causal", 1, [])):
        directory = folder / name
        start(config_of(corpus, directory, "train.steps=3", "checkpoint.interval=0", "data.audit=true", "model.dropout=0",
                        f"cluster.ranks_per_node={world_size}", *overrides), world_size)
        setattr(found, name, directory)
    return found


def audited(directory):
    rows = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    return {(row["step"], row["sample"]): (row["source"], row["documents"]) for row in rows}


def test_one_rank_and_two_train_the_same(runs):
    one, two, causal = (steps_of(each) for each in (runs.one, runs.two, runs.causal))
    assert len(one) == 3
    for step, figures in one.items():
        assert figures == pytest.approx(two[step], rel=1e-5) and figures[0] != pytest.approx(causal[step][0], rel=1e-5)


def test_audit_and_inspect_step_tell_the_documents_that_were_read(runs):
    assert audited(runs.one) == audited(runs.two) == audited(runs.causal)
    for step in (1, 3):
        told = explain_step(load_yaml(runs.two / "config.yaml"), runs.two, step)["samples"]
        assert {(step, each["sample"]): (each["source"], each["documents"]) for each in told} == {
            key: value for key, value in audited(runs.two).items() if key[0] == step}
