"""What counts as a spike, how long a run passes bad steps over, what a checkpoint keeps of both, and what a message says. Row D4's figures.
"""

import json
import math
import random

import pytest
from hexareme.conf.health_schema import HealthConfig, NonFinite, Spike
from hexareme.core.engine.sentinel import Seen
from hexareme.core.errors import NonFiniteError
from hexareme.core.health import FEWEST, Health, SpikeDetector
from hexareme.core.origin import MOST, Witness, account, first_seen
from hypothesis import given, settings
from hypothesis import strategies as st

CLEAN_STEPS = 5_000


def course(seed, *, noise, memory=0.0, steps=CLEAN_STEPS):
    """A language model's losses: ln of the vocabulary, a steep fall, a slow one, and noise that may last from step to step."""
    generator, lasting = random.Random(seed), 0.0
    for step in range(steps):
        lasting = memory * lasting + math.sqrt(1 - memory**2) * generator.gauss(0, 1)
        yield 3.0 + 7.5 * math.exp(-step / 150) + 1.5 / (1 + step / 800) + noise * lasting


def alarms(losses, window=128, sigma=6.0):
    detector = SpikeDetector(window=window, sigma=sigma)
    return sum(detector.judge(loss) is not None for loss in losses)


def test_d4_no_false_alarm_on_5000_clean_steps():
    assert alarms(course(0, noise=0.03)) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("noise", [0.003, 0.03, 0.1])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_d4_no_false_alarm_whatever_the_noise(noise, memory):
    assert sum(alarms(course(seed, noise=noise, memory=memory)) for seed in range(5)) == 0


@pytest.mark.nightly
@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32), noise=st.floats(0.001, 0.2), memory=st.sampled_from([0.0, 0.3, 0.6]))
def test_d4_no_false_alarm_while_little_is_known(seed, noise, memory):
    assert alarms(course(seed, noise=noise, memory=memory, steps=600)) == 0


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), steps=st.integers(400, 600), noise=st.floats(0.003, 0.1))
def test_d4_a_spike_of_6_sigma_is_found_in_its_step(seed, steps, noise):
    detector = SpikeDetector(window=128, sigma=6.0)
    for loss in course(seed, noise=noise, steps=steps):
        assert detector.judge(loss) is None
    below = detector._compare(1e9)
    assert detector._compare(below.expected + 5.99 * below.spread) is None
    spike = detector.judge(below.expected + 6.01 * below.spread)
    assert spike is not None and 6.0 < spike.sigma < 6.02
    assert below.spread < 2 * noise + 0.03, "so wide a spread would hide real spikes"


def test_a_falling_loss_and_the_first_steps_are_no_spike():
    assert alarms([11.0, 4.0] * 7) == 0
    assert alarms([12 - 0.5 * step for step in range(20)] + [0.1]) == 0


def test_constant_losses_do_not_make_rounding_a_spike():
    assert alarms([2.0] * 100 + [2.0 + 1e-9] * 100) == 0
    assert alarms([2.0] * 100 + [2.2]) == 1


def test_a_course_that_stays_high_is_the_new_course():
    noise = random.Random(0)
    losses = [2 + noise.gauss(0, 0.01) for _ in range(200)] + [4 + noise.gauss(0, 0.01) for _ in range(200)]
    assert alarms(losses) == FEWEST


@pytest.mark.parametrize("at", [5, 100, 130, 150])
def test_a_resumed_detector_decides_as_the_other(at):
    losses = list(course(1, noise=0.03, steps=120)) + [9.0] * 20 + list(course(2, noise=0.03, steps=60))
    whole, first, second = (Health(HealthConfig()) for _ in range(3))
    expected = [whole.healthy(loss) for loss in losses]
    found = [first.healthy(loss) for loss in losses[:at]]
    second.restore(json.loads(json.dumps(first.state())))
    assert found + [second.healthy(loss) for loss in losses[at:]] == expected
    assert second.state() == whole.state()


def test_at_most_so_many_steps_in_a_row_are_passed_over():
    health = Health(HealthConfig(most_skips=3))
    for _ in range(2):
        for _ in range(3):
            health.skip("bad")
        assert not health.settled
        health.healthy(2.0)
        assert health.settled
    resumed = Health(HealthConfig(most_skips=3))
    health.skip("bad")
    health.skip("bad")
    resumed.restore(json.loads(json.dumps(health.state())))
    resumed.skip("bad")
    with pytest.raises(NonFiniteError, match="3 steps in a row were passed over, and then bad"):
        resumed.skip("bad")


def test_the_policy_stop_passes_nothing_over():
    with pytest.raises(NonFiniteError, match="bad"):
        Health(HealthConfig(non_finite=NonFinite.stop)).skip("bad")


def test_an_overflow_is_neither_a_skip_nor_healthy():
    health = Health(HealthConfig(most_skips=1))
    health.skip("bad")
    health.overflow()
    assert (health.skips_in_row, health.overflows) == (1, 1)


def test_rewinds_are_counted():
    health = Health(HealthConfig(spike=Spike.rewind, most_rewinds=2))
    health.rewind("spike")
    health.restore(health.state())  # a rewind restores; it does not forget itself
    health.rewind("spike")
    with pytest.raises(NonFiniteError, match="after 2 rewinds, spike"):
        health.rewind("spike")


def witness(rank, seen, place=0, samples=""):
    return Witness(rank, place, rank, seen, samples or f"sample {rank}")


def test_the_first_to_see_it_is_named():
    ranks = [witness(0, Seen(gradient="a", gradient_stage=0)), witness(1, Seen(loss=True, gradient="b", gradient_stage=0))]
    assert first_seen(ranks) == ("in the loss", [ranks[1]])
    stages = [witness(0, Seen(gradient="a", gradient_stage=0)), witness(1, Seen(gradient="b", gradient_stage=1), 1), witness(2, Seen(), 2)]
    assert first_seen(stages) == ("in the gradient of b", [stages[1]])  # it then flows down to stage 0
    stages = [witness(0, Seen(hidden_stage=1, gradient="a", gradient_stage=1)), witness(1, Seen(hidden_stage=2, loss=True), place=1)]
    assert first_seen(stages) == ("in the hidden states of stage 1", [stages[0]])
    assert first_seen([witness(0, Seen())]) == ("in the sum over the ranks, each of which is finite", [])


def test_a_message_is_bounded():
    many = [witness(rank, Seen(loss=True, micro_batches=tuple(range(100))), samples=f"sample {rank} " * 30) for rank in range(500)]
    assert len(account("the loss of step 3 is nan", many).encode()) <= MOST
