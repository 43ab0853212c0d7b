"""The rules of layouts: each refuses what it should, and the nearest layout that it names is valid."""

from copy import deepcopy
from pathlib import Path

import pytest
from hexareme.conf.compose import compose
from hexareme.core.combinations import FEATURES, SPLIT, WHOLE, combinations_table, pipeline, refusal
from hexareme.core.layouts import layout_problems, nearest_layout
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
BASE = ["data.train=corpus", "experiment=debug", "model.num_layers=8", "batch.global_size=64", "batch.micro_size=1"]
EXPERTS = ["model.num_experts=4"]


def config_of(*overrides):
    return compose("train", [*BASE, *overrides])


def refused(world_size, *overrides):
    return [problem.key for problem in layout_problems(config_of(*overrides), world_size)]


@pytest.mark.parametrize(("world_size", "overrides", "key"), [
    (3, ["parallel.tp=2"], "parallel.tp"),
    (4, ["parallel.pp=8"], "parallel.pp"),
    (6, ["parallel.tp=3"], "parallel.tp"),
    (2, ["parallel.tp=2", "model.sequence_length=63"], "parallel.sequence_parallel"),
    (2, ["parallel.cp=2", "model.sequence_length=66"], "model.sequence_length"),
    (2, ["parallel.cp=2", "parallel.context_attention=ulysses", "model.sequence_length=63"], "model.sequence_length"),
    (8, ["parallel.cp=8", "parallel.context_attention=ulysses"], "parallel.context_attention"),
    (2, ["parallel.virtual_stages=2"], "parallel.virtual_stages"),
    (2, ["parallel.stage_layers=[4,4]"], "parallel.stage_layers"),
    (2, ["parallel.pp=2", "parallel.schedule=interleaved_1f1b"], "parallel.virtual_stages"),
    (2, ["parallel.pp=2", "parallel.virtual_stages=2"], "parallel.virtual_stages"),
    (2, ["parallel.pp=2", "parallel.stage_layers=[4,3]"], "parallel.stage_layers"),
    (2, ["parallel.pp=2", "parallel.stage_layers=[8,0]"], "parallel.stage_layers"),
    (2, ["parallel.pp=2", "model.num_layers=1"], "parallel.pp"),
    (2, ["parallel.pp=2", "parallel.zero=0"], "parallel.zero"),
    (2, ["parallel.pp=2", "parallel.zero=2"], "parallel.zero"),
    (2, ["parallel.pp=2", "parallel.zero=3"], "parallel.zero"),
    (2, ["parallel.pp=2", "parallel.offload=optimizer"], "parallel.offload"),
    (2, ["parallel.pp=2", "train.precision=fp16"], "train.precision"),
    (2, ["parallel.pp=2", "parallel.schedule=zbv", "train.recompute=full"], "train.recompute"),
    (2, ["parallel.pp=2", "parallel.schedule=dualpipev", "train.compile=true"], "train.compile"),
    (2, ["parallel.pp=2", "parallel.schedule=dualpipev", "batch.global_size=2"], "parallel.schedule"),
    (2, ["parallel.ep=2"], "parallel.ep"),
    (3, ["parallel.ep=3", *EXPERTS], "parallel.ep"),
    (2, ["parallel.ep=4", *EXPERTS], "parallel.ep"),
    (2, ["parallel.ep=2", "parallel.zero=3", *EXPERTS], "parallel.zero"),
    (2, ["parallel.ep=2", "parallel.offload=optimizer", *EXPERTS], "parallel.offload"),
    (2, ["optimizer=muon", "parallel.zero=0", *EXPERTS], "optimizer.name"),
])
def test_each_rule(world_size, overrides, key):
    assert key in refused(world_size, *overrides)


@pytest.mark.parametrize(("world_size", "overrides"), [
    (8, ["parallel.tp=2", "parallel.pp=2"]), (8, ["parallel.tp=2", "parallel.cp=2", "parallel.zero=3"]),
    (8, ["parallel.tp=2", "parallel.ep=2", "parallel.zero=2", *EXPERTS]), (4, ["parallel.tp=4", "model.num_kv_heads=2"]),
    (4, ["parallel.pp=4", "model.num_layers=7"]), (2, ["parallel.pp=2", "parallel.schedule=zbv"]), (2, ["parallel.zero=3", *EXPERTS]),
    (4, ["parallel.cp=2", "parallel.ep=4", "parallel.pp=1", *EXPERTS]), (2, ["parallel.pp=2", "train.recompute=selective"]),
    (4, ["parallel.pp=2", "parallel.schedule=interleaved_zero_bubble", "parallel.virtual_stages=2"]),
])
def test_what_is_allowed(world_size, overrides):
    assert refused(world_size, *overrides) == []


BASES = [config_of(), config_of(*EXPERTS)]


@settings(max_examples=150, deadline=None)
@given(base=st.sampled_from(BASES), features=st.lists(st.sampled_from(FEATURES), max_size=5), world_size=st.sampled_from([1, 2, 4, 8, 12]))
def test_the_nearest_layout_is_valid_whatever_was_asked_for(base, features, world_size):
    config = deepcopy(base)
    for feature in features:
        feature.enable(config)
    if not layout_problems(config, world_size):
        return
    way = nearest_layout(config, world_size)
    settings_that_no_layout_changes = {"train", "optimizer"} & {p.key.split(".")[0] for p in layout_problems(config, world_size)}
    assert way or settings_that_no_layout_changes
    for override in way.partition(" (dp=")[0].split():
        key, _, value = override.partition("=")
        name, old = key.removeprefix("parallel."), getattr(config.parallel, key.removeprefix("parallel."))
        new = value == "true" if isinstance(old, bool) else [] if value == "[]" else type(old)(value)
        setattr(config.parallel, name, new)
    if way:
        assert layout_problems(config, world_size) == []


def test_the_table_in_the_documentation_is_what_the_rules_say():
    assert combinations_table(BASES[0]) in (ROOT / "README.md").read_text(), "run `make docs`"


@pytest.mark.parametrize("alike", [WHOLE, SPLIT], ids=lambda schedules: schedules[0].value)
def test_schedules_that_share_a_row_are_alike(alike):
    def row(schedule):
        reasons = (refusal(BASES[0], pipeline(schedule), other) for other in FEATURES if other.axis != "pp")
        return [reason and reason.replace(schedule.value, "") for reason in reasons]

    assert all(row(schedule) == row(alike[0]) for schedule in alike)


def test_the_table_would_show_a_rule():
    features = {feature.name: feature for feature in FEATURES}
    assert refusal(BASES[0], features["ZeRO-3"], features["experts"]) is not None
    assert refusal(BASES[0], features["ZeRO-3"], features["context, ring"]) is None
