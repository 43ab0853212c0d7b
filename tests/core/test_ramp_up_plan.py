"""A batch that ramps up: against Megatron-LM's own calculator; both ways between steps and samples; what is refused."""

from functools import cache
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from hexareme.conf.compose import compose
from hexareme.core.batch import BatchPlan, RampUp
from hexareme.core.combine import problems
from hypothesis import given, settings
from hypothesis import strategies as st


@cache
def megatrons_calculator():
    """Its one file: importing the whole of megatron.core takes seconds."""
    path = distribution("megatron-core").locate_file("megatron/core/num_microbatches_calculator.py")
    spec = spec_from_file_location("megatrons_calculator", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RampupBatchsizeNumMicroBatchesCalculator


@st.composite
def plans(draw):
    micro, dp = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    start, increment, levels = (draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 8)))
    unit = micro * dp
    ramp = RampUp(start * unit, increment * unit, draw(st.integers(1, 4000)))
    return BatchPlan.divide(global_size=(start + levels * increment) * unit, micro_size=micro, dp=dp, ramp_up=ramp)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_the_sizes_are_megatrons(plan):
    ramp = plan.ramp_up
    if plan.global_size == ramp.start:  # Megatron divides by no increments there
        return
    theirs = megatrons_calculator()(
        global_batch_size=plan.global_size, micro_batch_size=plan.micro_size, data_parallel_size=plan.dp, rank=1,
        decrease_batch_size_if_needed=False, start_global_batch_size=ramp.start,
        batch_size_increment=ramp.increment, ramup_samples=ramp.samples)
    share = ramp.samples / ((plan.global_size - ramp.start) // ramp.increment)
    seen = 0
    for step in range(200):
        theirs.update(seen, consistency_check=True)
        at_a_border = abs(seen / share - round(seen / share)) < 1e-9  # theirs is a quotient of floats, ours is exact
        assert at_a_border or plan.size(step) == theirs.get_current_global_batch_size()
        assert plan.first_sample(step) == seen
        seen += plan.size(step)


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 10**15), st.integers(0, 10**9))
def test_steps_and_samples_both_ways(plan, sample, step):
    found = plan.step_of(sample)
    assert plan.first_sample(found) <= sample < plan.first_sample(found) + plan.size(found) == plan.first_sample(found + 1)
    assert plan.step_of(plan.first_sample(step)) == step


def test_written_out():
    """4, 6, 8 over 12 samples: the level changes at the first step that begins at or after 6, then 12."""
    plan = BatchPlan.divide(global_size=8, micro_size=1, dp=2, ramp_up=RampUp(4, 2, 12))
    assert [plan.size(step) for step in range(6)] == [4, 4, 6, 8, 8, 8]
    assert [plan.first_sample(step) for step in range(6)] == [0, 4, 8, 14, 22, 30]
    assert plan.samples(2, 1) == [9, 11, 13]


def test_a_short_ramp_leaves_sizes_out():
    plan = BatchPlan.divide(global_size=16, micro_size=1, dp=1, ramp_up=RampUp(4, 4, 3))
    assert [plan.size(step) for step in range(3)] == [4, 16, 16]


@pytest.mark.parametrize(("ramp", "told"), [
    ((4, 5, 10), "lead to 16"), ((20, 2, 10), "lead to 16"), ((4, 4, 0), "lead to 16"), ((4, 0, 9), "lead to 16"),
    ((2, 2, 9), "a ramp-up's size=2 "),
])
def test_impossible_ramps(ramp, told):
    with pytest.raises(ValueError, match=told):
        BatchPlan.divide(global_size=16, micro_size=2, dp=2, ramp_up=RampUp(*ramp))


@pytest.mark.parametrize(("ramp", "key", "told"), [
    ("{start: 4, increment: 5, samples: 90}", "batch.ramp_up.increment", "does not lead from"),
    ("{start: 20, increment: 4, samples: 90}", "batch.ramp_up.increment", "does not lead from"),
    ("{start: 6, increment: 10, samples: 90}", "batch.ramp_up.start", "micro_size=2 x accumulation steps x dp=2"),
    ("{start: 4, increment: 2, samples: 90}", "batch.ramp_up.increment", "micro_size=2 x accumulation steps x dp=2"),
    ("{start: 4, increment: 4}", "batch.ramp_up.samples", "is needed"),
    ("{samples: 4}", "batch.ramp_up.samples", "no effect"),
])
def test_each_impossible_ramp_is_refused_by_name(ramp, key, told):
    config = compose("train", ["experiment=debug", "data.train=x", "batch.global_size=16", "batch.micro_size=2", f"batch.ramp_up={ramp}"])
    found = problems(config, world_size=2)[0]
    assert found.key == key and told in found.message and found.do


def test_a_pipeline_needs_its_micro_batches_in_the_first_step_too():
    words = ["experiment=debug", "data.train=x", "batch.global_size=16", "batch.micro_size=1", "parallel.pp=2"]
    assert problems(compose("train", [*words, "batch.ramp_up={start: 2, increment: 2, samples: 90}"]), world_size=2) == []
    (found,) = problems(compose("train", [*words, "batch.ramp_up={start: 1, increment: 3, samples: 90}"]), world_size=2)
    assert found.key == "parallel.schedule" and "with 1 micro-batches a step" in found.message and "batch.ramp_up" in found.do


@pytest.mark.parametrize(("words", "told"), [
    (["data.stages=[{from_step: 20, train: b}]"], "never begins"),
    (["data.stages=[{from_step: 2, sequence_length: 48}]"], "equal pieces"),
    (["data.stages=[{from_step: 2, sequence_length: 32}]", "data.document_mask=false"], "keep the pieces"),
])
def test_impossible_stages(words, told):
    (found,) = problems(compose("train", ["experiment=debug", "data.train=x", "model.sequence_length=128", *words]), world_size=1)
    assert found.key == "data.stages" and told in found.message and found.do
