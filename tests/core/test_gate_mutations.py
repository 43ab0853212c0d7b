"""The gate can fail: each piece of communication that is taken away turns the verdict of a layout that has it."""

import pytest
from hexareme.conf.compose import compose
from hexareme.conf.prove_schema import ProveConfig
from hexareme.core.proof.gate import gate_case
from hexareme.core.proof.runner import Limits, prove

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)

from .gate_mutations import MUTATIONS, QUICK

STEPS = 2  # a wrong gradient is seen in the first


def verdict_of(entry):
    config = compose("prove", [])
    assert isinstance(config, ProveConfig)
    limits = Limits(steps=STEPS, timeout=120, jobs=1, tolerances=config.tolerances())
    [row] = prove([gate_case(lambda words: compose("train", words), entry)], limits, started=lambda name: None)
    return row.verdict


@pytest.mark.parametrize("mutation", [
    pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.nightly) for each in MUTATIONS])
def test_what_is_taken_away_is_missed(mutation, monkeypatch):
    mutation.apply(monkeypatch)
    verdict = verdict_of(mutation.entry)
    assert verdict.where, f"nothing was seen but: {verdict.fault or 'agreement'}"


@pytest.mark.nightly
@pytest.mark.parametrize("entry", list({each.entry.words: each.entry for each in MUTATIONS}.values()), ids=lambda entry: entry.words)
def test_with_nothing_taken_away_the_same_layouts_agree(entry):
    assert verdict_of(entry).agrees


def test_the_quick_ones_exist():
    assert set(QUICK) <= {each.name for each in MUTATIONS}
