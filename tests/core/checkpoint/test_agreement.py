from pathlib import Path

import pytest
from hexareme.core.checkpoint.agreement import ABSENT, differences, require_agreement
from hexareme.core.errors import CheckpointError
from hypothesis import given
from hypothesis import strategies as st

SAVED = {"model": {"hidden_size": 64, "rope": {"theta": 1e4}}, "train": {"seed": 0}, "optimizer": {"betas": [0.9, 0.95]}}
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
CONFIGS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), VALUES | inner, max_size=3),
)


@given(CONFIGS)
def test_a_config_agrees_with_itself(config):
    assert differences(config, config) == []


@given(CONFIGS, CONFIGS)
def test_differences_are_seen_from_both_sides(a, b):
    assert [(key, new, old) for key, old, new in differences(a, b)] == [tuple(d) for d in differences(b, a)]


def test_each_field_is_named():
    now = {"model": {"hidden_size": 128, "rope": {}}, "train": {"seed": 0, "precision": "bf16"}, "optimizer": {"betas": (0.9, 0.99)}}
    assert [tuple(d) for d in differences(SAVED, now)] == [
        ("model.hidden_size", 64, 128),
        ("model.rope", ABSENT, {}),
        ("model.rope.theta", 1e4, ABSENT),
        ("optimizer.betas", [0.9, 0.95], [0.9, 0.99]),
        ("train.precision", ABSENT, "bf16"),
    ]


def test_keys_and_sections_may_be_allowed():
    now = {"model": {"hidden_size": 128, "rope": {"theta": 2e4}}, "train": {"seed": 1}, "optimizer": {"betas": [0.9, 0.95]}}
    assert [d.key for d in differences(SAVED, now, ["model"])] == ["train.seed"]
    assert [d.key for d in differences(SAVED, now, ["model.rope", "train.seed"])] == ["model.hidden_size"]
    assert [d.key for d in differences(SAVED, now, ["mod", "train.see"])] == ["model.hidden_size", "model.rope.theta", "train.seed"]


def test_true_is_not_one_but_one_is_one_point_zero():
    assert [d.key for d in differences({"a": True, "b": 1, "c": 0.0}, {"a": 1, "b": 1.0, "c": 0})] == ["a"]


def test_the_error_lists_every_field_and_the_way_out():
    now = {"model": {"hidden_size": 128, "rope": {"theta": 1e4}}, "train": {"seed": 1}, "optimizer": {"betas": [0.9, 0.95]}}
    with pytest.raises(CheckpointError) as caught:
        require_agreement(SAVED, now, allow=[], folder=Path("step-00000010"))
    assert "model.hidden_size was 64 and is 128; train.seed was 0 and is 1" in str(caught.value)
    assert "checkpoint.allow_change=[model.hidden_size,train.seed]" in caught.value.do
    require_agreement(SAVED, now, allow=["model.hidden_size", "train"], folder=Path("step-00000010"))
