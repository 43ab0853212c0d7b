"""The bubble of pipeline schedules: simulated, in closed form, and on real ranks."""

import pytest
import torch
from hexareme.core.bench import bubble as bench
from hexareme.core.bench.bubble import Setup, bubble_rows, comparison, measure_bubble
from hexareme.core.bench.suite import best_bubble
from hexareme.core.bench.suites import BUBBLE, QUICK_SCHEDULES, SETUPS
from hexareme.core.bubble import Action, Kind, one_f_one_b_bubble, simulate
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import run_ranks


def looped(p, m, *, backward_first):
    """gpipe, or 1f1b: every rank's order, from their definitions."""
    found = []
    for rank in range(p):
        warm_up = min(m, p - rank) if backward_first else m
        order = [Action(Kind.forward, rank, i) for i in range(warm_up)]
        for i in range(m):
            order.append(Action(Kind.backward, rank, i))
            order += [Action(Kind.forward, rank, warm_up + i)] if warm_up + i < m else []
        found.append([(action,) for action in order])
    return found


@given(st.integers(1, 7), st.integers(1, 12), st.booleans())
def test_the_simulation_has_the_closed_form_of_gpipe_and_1f1b(p, m, backward_first):
    assert simulate(looped(p, m, backward_first=backward_first)).bubble == pytest.approx(one_f_one_b_bubble(p, m))


def test_what_nobody_computes_is_waited_for_in_vain():
    order = [[(Action(Kind.forward, 0, 0),), (Action(Kind.backward, 0, 0),)], [(Action(Kind.forward, 1, 1),)]]
    with pytest.raises(ValueError, match="deadlock"):
        simulate(order)


def test_a_pair_leaves_its_rank_when_both_are_done():
    first, second = Action(Kind.forward, 0, 0), Action(Kind.forward, 0, 1)
    last = [(Action(Kind.forward, 1, 0),), (Action(Kind.forward, 1, 1),)]
    assert simulate([[(first,), (second,)], last]).makespan == 3
    assert simulate([[(first, second)], last]).makespan == 4


def test_the_real_schedules_have_their_bubbles():
    rows = [row for setup in SETUPS if setup.schedule in QUICK_SCHEDULES for row in best_bubble(setup).rows]
    rows += comparison(rows)
    assert len(rows) == 5 and [row for row in rows if not BUBBLE.holds(row)] == []


@pytest.mark.nightly
@pytest.mark.parametrize("setup", [setup for setup in SETUPS if setup.schedule not in QUICK_SCHEDULES], ids=lambda setup: setup.schedule)
def test_the_other_schedules_have_their_bubbles(setup):
    assert [row for row in best_bubble(setup).rows if not BUBBLE.holds(row)] == []


@pytest.mark.parametrize("setup", [Setup("1f1b", seconds=0.005), Setup("zbv", 2, seconds=0.005)], ids=lambda setup: setup.schedule)
def test_a_pass_that_costs_nothing_is_seen(setup, monkeypatch):
    class WithoutWeight(bench.KnownStage):
        def forward(self, x_BH):
            x_BH = x_BH if self.embedding is None else x_BH + self.embedding
            return torch.nn.functional.linear(bench._Cost.apply(x_BH, self.clock, 1, 1), self.weight)

    monkeypatch.setattr(bench, "KnownStage", WithoutWeight)
    rows = bubble_rows(setup, run_ranks(measure_bubble, 4, setup))
    assert not BUBBLE.holds(rows[1])


def test_another_order_has_another_bubble():
    """gpipe with the backward pass of each micro-batch at once, one micro-batch in flight: no pipeline at all."""
    p, m = 4, 8
    order = [[(Action(kind, rank, i),) for i in range(m) for kind in (Kind.forward, Kind.backward)] for rank in range(p)]
    assert simulate(order).bubble == pytest.approx(1 - 1 / p)
