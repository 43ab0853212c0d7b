"""A proof's pure parts: what is scaled down keeps its structure, every smaller layout is there, and a difference is seen where it is."""

import json
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.conf.schema import Config
from hexareme.core.combine import problems
from hexareme.core.objectives import made_objective
from hexareme.core.proof.compare import FIRST_LOSS, GRADIENT, LOSS, NORM, PARAMETER, judge, widened
from hexareme.core.proof.gate import GATE, gate_cases
from hexareme.core.proof.layouts import Case, Expected, smaller_layouts
from hexareme.core.proof.runner import Limits, Row, zero_gradients
from hexareme.core.proof.shrink import shrink, training_config
from hexareme.core.proof.table import as_json, line
from hexareme.core.proof.tokens import proof_batch
from hexareme.core.proof.trace import Portion, Trace, assemble
from hexareme.parallel.partition import ShardSpec, shard_padded, shard_parts
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCES = {FIRST_LOSS: 2e-6, GRADIENT: 1e-5, NORM: 1e-5, LOSS: 1e-5, PARAMETER: 1e-5}
TENSOR = "parallel.tp=4 parallel.zero=1 parallel.offload=none"
RECIPES = ("debug", "quickstart", "gpt2_124m", "gpt2_1_5b", "llama_1b", "llama_8b", "llama_70b")


def training(*overrides) -> Config:
    return compose("train", ["data.train=none", *overrides])


# what is scaled down

LAYOUTS = ("parallel.tp=1", TENSOR, "parallel.pp=2 parallel.cp=2 parallel.zero=1 parallel.offload=none")
ODD_HEADS = ("gpt2_1_5b", "quickstart")  # 25 and 5 of them: no tensor axis of 4


@pytest.mark.parametrize(("recipe", "layout"), [(recipe, layout) for recipe in RECIPES for layout in LAYOUTS
                                                if not (recipe in ODD_HEADS and layout == TENSOR)])
def test_a_recipe_scaled_down_runs_and_keeps_its_structure(recipe, layout):
    whole = training_config(training(f"experiment={recipe}", *layout.split(), "batch.global_size=512", "batch.micro_size=4"))
    world = prod((whole.parallel.tp, whole.parallel.pp, whole.parallel.cp))
    assert not problems(whole, world_size=world)
    small, processes = shrink(whole, processes=8, steps=20)
    assert not problems(small, world_size=processes)
    assert processes <= 8 and small.model.hidden_size <= 128 and small.model.num_layers <= 8 and small.model.sequence_length <= 64
    a, b = small.model, whole.model
    for key in ("positions", "normalization", "activation", "bias", "tie_embeddings", "dropout", "attention_dropout", "rope_scaling"):
        assert getattr(a, key) == getattr(b, key)
    assert a.num_heads * b.num_kv_heads == b.num_heads * a.num_kv_heads
    for key in ("precision", "recompute", "gradient_clipping"):
        assert getattr(small.train, key) == getattr(whole.train, key)
    assert small.optimizer == whole.optimizer and small.schedule.name == whole.schedule.name
    assert (small.parallel.zero, small.parallel.schedule) == (whole.parallel.zero, whole.parallel.schedule)


@settings(deadline=None, max_examples=40)
@given(kv=st.sampled_from([1, 2, 3, 4, 8]), group=st.sampled_from([1, 2, 3, 8]), tp=st.sampled_from([1, 2, 4]),
       vocab=st.integers(200, 60000))
def test_what_divides_still_divides(kv, group, tp, vocab):
    config = training("model=debug")
    config.model = replace(config.model, num_kv_heads=kv, num_heads=kv * group, hidden_size=kv * group * 8, ffn_hidden_size=kv * group * 32,
                           vocab_size=vocab)
    config.parallel.tp = tp
    if problems(config, world_size=tp):
        return
    small, processes = shrink(config, processes=8, steps=20)
    assert not problems(small, world_size=processes)
    a, b = small.model, config.model
    assert (a.vocab_size % tp == 0) == (b.vocab_size % tp == 0) and (a.num_kv_heads < tp) == (b.num_kv_heads < tp)


def test_too_many_processes_halve_the_largest_axis():
    config = training("model=debug", "model.num_heads=8", "parallel.tp=8", "parallel.pp=2", "batch.global_size=32", "batch.micro_size=1")
    small, processes = shrink(config, processes=8, steps=20)
    assert processes == 8 and (small.parallel.tp, small.parallel.pp) in ((4, 2), (2, 2))


def test_an_uneven_pipeline_stays_uneven():
    config = training("model=debug", "model.num_layers=30", "parallel.pp=4", "batch.global_size=32", "batch.micro_size=1")
    small, _ = shrink(config, processes=8, steps=20)
    assert small.model.num_layers % 4 and small.model.num_layers > 4


# the layouts

def test_every_smaller_layout_is_there_once():
    config = training("model=debug", "model.num_layers=2", "parallel.tp=2", "parallel.cp=2", "parallel.zero=2", "batch.micro_size=1")
    cases = list(smaller_layouts(config, 8))
    assert len({case.name for case in cases}) == len(cases)
    p = [case.config.parallel for case in cases]
    assert (p[0].tp, p[0].cp, p[0].zero, p[0].sequence_parallel, cases[0].processes) == (2, 2, 2, True, 8)
    found = {(x.tp, x.cp, case.processes // (x.tp * x.cp), x.zero) for x, case in zip(p, cases, strict=True)}
    everything = product((1, 2), (1, 2), (1, 2), (0, 1, 2))
    assert found == {(tp, cp, dp, zero) for tp, cp, dp, zero in everything if dp * cp > 1 or zero == 2}
    assert {x.sequence_parallel for x in p if x.tp == 2} == {True, False}
    assert not any(case.refused for case in cases)


def test_the_gate_is_what_the_issue_asks_for():
    cases = gate_cases(lambda words: compose("train", words), quick=False)
    assert all(bool(case.refused) == (case.expected is Expected.refused) for case in cases)
    runs = [case for case in cases if not case.refused]
    p = [case.config.parallel for case in runs]
    assert len(runs) >= 60 and len({case.name for case in runs}) == len(runs)
    assert {case.processes for case in runs} == {1, 2, 4, 8}
    assert {x.schedule.value for x in p if x.pp == 2} == {x.schedule.value for x in p if x.pp == 4} and len({x.schedule for x in p}) == 6
    assert {(x.tp, x.sequence_parallel) for x in p if x.tp > 1} >= {(2, True), (2, False), (4, True), (4, False)}
    assert {(x.pp, x.virtual_stages) for x in p} >= {(2, 2), (4, 2)}
    assert {x.ep for x in p} == {1, 2, 4} and {x.zero for x in p} == {0, 1, 2, 3}
    assert {(x.cp, x.context_attention.value) for x in p if x.cp > 1} == {(c, kind) for c in (2, 4) for kind in ("ring", "ulysses")}
    assert {x.offload.value for x in p} == {"none", "optimizer", "optimizer_and_parameters"}
    assert sum(degrees(case) >= 3 for case in runs) >= 10
    assert {("SGD" if case.config.optimizer.name == "sgd" else "AdamW") for case in runs} == {"SGD", "AdamW"}
    assert all(case.config.model.dropout > 0 for case in runs) and any(case.config.train.precision == "bf16" for case in runs)
    assert any((x.tp, x.pp, case.processes, x.zero) == (2, 2, 8, 1) for x, case in zip(p, runs, strict=True))
    assert any((x.tp, x.cp, case.processes, x.zero) == (2, 2, 8, 3) for x, case in zip(p, runs, strict=True))
    assert any((x.ep, x.tp, case.processes) == (2, 2, 4) for x, case in zip(p, runs, strict=True))
    assert sum(entry.quick for entry in GATE) < 30


def degrees(case: Case) -> int:
    p = case.config.parallel
    return sum(degree > 1 for degree in (p.tp, p.pp, p.cp, p.ep, case.processes // (p.tp * p.pp * p.cp)))


# the tokens

def test_samples_are_a_function_of_their_numbers():
    sizes = {"vocab_size": 128, "sequence_length": 32, "document_mask": True}
    together, alone = proof_batch([3, 4, 5], **sizes), proof_batch([4], **sizes)
    for field in ("tokens_BS", "targets_BS", "documents_BS", "positions_BS", "loss_mask_BS"):
        assert np.array_equal(getattr(together, field)[1], getattr(alone, field)[0])
    many = proof_batch(range(64), **sizes)
    assert np.array_equal(many.tokens_BS[:, 1:], many.targets_BS[:, :-1]) and many.tokens_BS.max() < 128
    counts = many.loss_mask_BS.sum(axis=1)
    assert counts.min() >= 1 and counts.max() > 24 and counts.std() > 5
    starts = many.positions_BS == 0
    assert np.array_equal(np.cumsum(starts, axis=1) - 1, many.documents_BS) and starts.sum() > 2 * 64
    plain = proof_batch(range(4), vocab_size=128, sequence_length=32, document_mask=False)
    assert not plain.documents_BS.any() and np.array_equal(plain.positions_BS[2], np.arange(32))


def test_samples_of_packed_rows_and_of_an_objective():
    sizes = {"vocab_size": 128, "sequence_length": 32, "document_mask": True}
    rows, plain = proof_batch(range(64), packed=True, **sizes), proof_batch(range(64), **sizes)
    ends = np.diff(rows.documents_BS, axis=1) > 0
    assert (rows.targets_BS[:, :-1] != rows.tokens_BS[:, 1:])[ends].mean() > 0.8  # chance makes some equal
    padding = (rows.tokens_BS == 0) & (rows.targets_BS == 0) & (rows.documents_BS == rows.documents_BS[:, -1:])
    assert padding[:, -1].sum() > 40 and not rows.loss_mask_BS[padding[:, -1], -1].any() and (rows.loss_mask_BS.sum(axis=1) >= 1).all()
    assert np.array_equal(rows.positions_BS == 0, np.diff(rows.documents_BS, axis=1, prepend=-1) > 0)
    config = training("model=debug", "data.objective.name=span_corruption", "model.vocab_size=128", "model.sequence_length=32")
    spans = made_objective(config.data.objective, config.model)
    corrupted = proof_batch(range(64), objective=spans, **sizes)
    assert np.array_equal(corrupted.documents_BS, plain.documents_BS) and (corrupted.tokens_BS >= 112).any()
    alone = proof_batch([7], objective=spans, **sizes)
    assert np.array_equal(alone.tokens_BS[0], corrupted.tokens_BS[7]) and 0 < corrupted.loss_mask_BS.mean() < 0.6


# what is compared

REFERENCE = np.arange(1.0, 13.0, dtype=np.float32)
WHOLE = ShardSpec.whole((6, 2))


def traces(*pieces, losses=(2.0, 1.0), norms=(1.0, 1.0)):
    """One rank for each list of (spec, start, values), as gradient and as parameter `w`."""
    return [Trace(list(losses), list(norms), portions, list(portions)) for portions in
            ([Portion("w", spec, start, np.array(values, np.float32)) for spec, start, values in piece] for piece in pieces)]


def verdict(ranks, tolerances=TOLERANCES, skipped=None):
    return judge(ranks, traces([(WHOLE, 0, REFERENCE)])[0], tolerances, skipped=skipped or {})


def test_shards_partitions_and_padding_are_put_together():
    fused = [shard_parts((6, 2), dim=0, parts=(2, 4), degree=2, index=i) for i in (0, 1)]
    rows = REFERENCE.reshape(6, 2)
    halves = [rows[[0, 2, 3]].ravel(), rows[[1, 4, 5]].ravel()]
    assert verdict(traces([(fused[0], 0, halves[0])], [(fused[1], 0, halves[1][:2]), (fused[1], 2, halves[1][2:])])).agrees
    padded = [shard_padded((6, 2), dim=0, degree=4, index=i) for i in range(4)]
    blocks = np.concatenate((REFERENCE, np.zeros(4, np.float32))).reshape(4, 4)
    assert verdict(traces(*([(spec, 0, block)] for spec, block in zip(padded, blocks, strict=True)))).agrees
    blocks[3, 0] = 1.0
    assert "padding is not zero" in verdict(traces(*([(spec, 0, block)] for spec, block in zip(padded, blocks, strict=True)))).fault


def test_copies_must_be_equal_bit_for_bit():
    other = REFERENCE.copy()
    other[5] = np.nextafter(other[5], np.float32(9))
    found = verdict(traces([(WHOLE, 0, REFERENCE)], [(WHOLE, 0, other)]))
    assert not found.agrees and "gradient of w on rank 1: differs from its copy on rank 0" in found.fault


def test_missing_elements_and_missing_tensors_are_infinitely_wrong():
    found = verdict(traces([(WHOLE, 0, REFERENCE[:8])]))
    assert not found.agrees and found.differences[GRADIENT].value == np.inf
    assert verdict(traces([])).differences[PARAMETER].parameter == "w"
    assert assemble([[]]) == {}


def test_the_first_difference_is_named_with_its_step_tensor_and_rank():
    shards = [shard_parts((6, 2), dim=0, parts=(6,), degree=2, index=i) for i in (0, 1)]
    wrong = REFERENCE[6:].copy()
    wrong[2] += 0.01
    ranks = traces([(shards[0], 0, REFERENCE[:6])], [(shards[1], 0, wrong)], losses=(2.0, 1.1))
    found = verdict(ranks)
    assert found.where == "step 1: gradient of w (rank 1)" and found.differences[LOSS].step == 2
    assert found.differences[GRADIENT].value == pytest.approx(0.01 / np.linalg.norm(REFERENCE), rel=1e-3)
    assert verdict(ranks, TOLERANCES | {GRADIENT: 1.0, PARAMETER: 1.0}).where == "step 2: loss"


@pytest.mark.parametrize(("losses", "norms"), [((2.0, float("nan")), (1.0, 1.0)), ((2.0,), (1.0, 1.0)), ((2.0, 1.0), (1.0, float("inf")))])
def test_what_is_not_finite_or_missing_disagrees(losses, norms):
    found = verdict(traces([(WHOLE, 0, REFERENCE)], losses=losses, norms=norms))
    assert not found.agrees
    json.dumps(as_json([Row(Case("x", training(), 1), found)], Limits(2, 1.0, 1, TOLERANCES), None), allow_nan=False)


def test_ranks_that_saw_other_losses_disagree():
    ranks = [*traces([(WHOLE, 0, REFERENCE)]), *traces([(WHOLE, 0, REFERENCE)], losses=(2.0, 1.0 + 1e-9))]
    assert verdict(ranks).fault == "rank 1 saw other losses or norms than rank 0"


def test_rows_whose_gradient_is_zero_are_left_out_and_listed():
    wrong = REFERENCE.copy()
    wrong[2:4] = 100.0
    ranks = traces([(WHOLE, 0, REFERENCE)])
    ranks[0].parameters[0] = Portion("w", WHOLE, 0, wrong)
    assert not verdict(ranks).agrees
    assert verdict(ranks, skipped={"w": slice(2, 4)}).agrees
    config = training("model=debug", "model.num_layers=1")
    assert zero_gradients(config) == {"blocks.0.attention.qkv.bias": slice(64, 128)}
    assert zero_gradients(training("model=debug", "optimizer=sgd")) == {} == zero_gradients(training("model=debug", "model.positions=rope"))


def test_low_precision_may_be_as_far_off_as_one_process():
    exact = traces([(WHOLE, 0, REFERENCE)])[0]
    low = traces([(WHOLE, 0, REFERENCE * 1.01)], losses=(2.02, 1.0))
    found = widened(TOLERANCES, low, exact, skipped={})
    assert found[FIRST_LOSS] == pytest.approx(0.015) == found[LOSS] and found[GRADIENT] == pytest.approx(0.015, rel=1e-3) == found[NORM]


def test_a_refused_layout_is_a_line_of_its_own():
    row = Row(Case("tp3", training(), 3, refused="parallel.tp=3 does not divide"), None)
    assert "refused: parallel.tp=3 does not divide" in line(row, 10)
    found = as_json([row], Limits(2, 1.0, 1, TOLERANCES), None)
    assert not found["agrees"] and found["layouts"][0]["refused"] and found["layouts"][0]["agrees"] is None
