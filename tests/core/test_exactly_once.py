"""Acceptance 2: every sample exactly once an epoch, for any data degree, micro-batch, accumulation and ramp-up, and any interruption.

Pure arithmetic: what the ranks of a run that is killed again and again, and goes on each time on another layout, are given to read.
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hexareme.core.batch import BatchPlan, RampUp
from hexareme.data.order.stages import Stage
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens.token_file import TokenFile
from hypothesis import given, settings
from hypothesis import strategies as st

from ..data.token_files import write_tokens

GLOBAL = 24
RAMPS = [RampUp(), RampUp(12, 12, 50), RampUp(24, 1, 9)]
LAYOUTS = [(dp, micro) for dp in (1, 2, 3, 4, 6, 12) for micro in (1, 2, 3, 4, 6, 12) if 12 % (dp * micro) == 0]  # fit each size
SHORT = 4


@st.composite
def interruptions(draw):
    """Layouts of the starts, steps that each of them does before it is killed, and steps between checkpoints."""
    starts = draw(st.lists(st.tuples(st.sampled_from(LAYOUTS), st.integers(0, 9)), min_size=1, max_size=20))
    return starts, draw(st.integers(1, 4)), draw(st.sampled_from(RAMPS))


def trained_on(starts, interval, ramp, *, steps):
    """Samples in the order of the steps that a run in the end is made of."""
    log: dict[int, list[int]] = {}
    step = seen = 0
    for (dp, micro), most in [*starts, (LAYOUTS[0], steps)]:
        plan = BatchPlan.divide(global_size=GLOBAL, micro_size=micro, dp=dp, ramp_up=ramp)
        ranks = [plan.samples_from(step, seen, rank) for rank in range(dp)]
        saved = step, seen
        for now in range(step, min(step + most, steps)):
            local = [rank(now) for rank in ranks]
            assert {len(each) for each in local} == {plan.size(now) // dp}
            log[now + 1] = sum(local, [])
            seen += plan.size(now)
            if (now + 1) % interval == 0:
                saved = now + 1, seen
        step, seen = (steps, seen) if most == steps else saved
        if most != steps:
            log = {done: samples for done, samples in log.items() if done <= step}  # what a resume cuts
    return [sample for done in sorted(log) for sample in sorted(log[done])]


@settings(max_examples=60, deadline=None)
@given(interruptions())
def test_no_interruption_repeats_or_leaves_out_a_sample(case):
    starts, interval, ramp = case
    samples = trained_on(starts, interval, ramp, steps=12)
    plan = BatchPlan.divide(global_size=GLOBAL, micro_size=1, dp=1, ramp_up=ramp)
    assert samples == list(range(plan.first_sample(12)))


@pytest.fixture(scope="module")
def tokens():
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder) / "a", [list(range(SHORT * 31 + 3))])
        write_tokens(Path(folder) / "b", [list(range(SHORT * 17 + 1))])
        yield [TokenFile(Path(folder) / name) for name in "ab"]


@settings(max_examples=30, deadline=None)
@given(interruptions(), st.integers(0, 99))
def test_each_epoch_of_each_source_has_every_window_once(tokens, case, seed):
    """Over three mixtures, the second of which begins within an epoch of both; counted by target token."""
    starts, interval, ramp = case
    stages = [Stage(0, (3.0, 1.0), SHORT), Stage(40, (1.0, 3.0), SHORT), Stage(90, (1.0, 0.0), SHORT)]
    training = TrainingSet([(file, 1.0) for file in tokens], sequence_length=SHORT, seed=seed, document_mask=True, stages=stages)
    samples = np.array(trained_on(starts, interval, ramp, steps=12))
    sources, places = training.places(samples)
    for number, file in enumerate(tokens):
        windows, mine = file.num_tokens // SHORT, places[sources == number]
        for first in range(0, len(mine), windows):
            epoch = mine[first : first + windows]
            targets = Counter(((epoch[:, None] + 1 + np.arange(SHORT)) % file.num_tokens).ravel().tolist())
            assert max(targets.values()) == 1 and len(targets) == len(epoch) * SHORT
