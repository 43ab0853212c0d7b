"""What each rank sends: the theory by itself, and what real steps send beside it."""

import pytest
import torch
import torch.distributed as dist
from hexareme.core.bench.bytes import measure_bytes
from hexareme.core.bench.suites import BYTES, BYTES_CASES, Case
from hexareme.core.bench.table import worst
from hexareme.core.engine.engine import Engine
from hexareme.core.traffic import Replicas, ZeroSwitches, padded, zero_traffic
from hypothesis import given
from hypothesis import strategies as st

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple)
KEPT = ZeroSwitches(persistence_threshold=0, max_live=10**12, max_reuse=10**12)
FREED = ZeroSwitches()


def sent(stage, sizes, n, *, accumulation=1, switches=KEPT):
    """Bytes of all ranks together."""
    ranks = [zero_traffic(stage, [Replicas("data", n, rank, sizes)], switches, accumulation=accumulation) for rank in range(n)]
    return sum(sum(found.values()) for found in ranks)


@given(SIZES, st.integers(1, 9), st.integers(1, 5))
def test_zero_sends_what_its_paper_says(sizes, n, accumulation):
    """Rajbhandari et al. 2020, section 7, in units of P (n - 1) over all ranks: 2, 2, a + 1, and 2 a or 3 a."""
    unit = 4 * sum(sizes) * (n - 1)
    padding = 4 * 3 * len(sizes) * 3 * accumulation * n * n  # at most: a few elements of each parameter and rank
    for stage, switches, units in ((0, KEPT, 2), (1, KEPT, 2), (2, KEPT, accumulation + 1), (3, KEPT, 2 * accumulation),
                                   (3, FREED, 3 * accumulation)):
        found = sent(stage, sizes, n, accumulation=accumulation, switches=switches)
        assert units * unit <= found + 1e-3 and found <= units * unit + padding


@given(SIZES, st.integers(2, 9))
def test_every_gradient_reaches_its_owner_once(sizes, n):
    """The ranks together send each element of the gradient n - 1 times, wherever the padding lies."""
    found = [zero_traffic(1, [Replicas("data", n, rank, sizes)], KEPT, accumulation=3)["data", "reduce"] for rank in range(n)]
    assert sum(found) == 4 * sum(sizes) * (n - 1)
    assert max(found) <= 4 * padded(Replicas("data", n, 0, sizes)) * (n - 1) / n


def test_all_reducing_to_every_rank_sends_half_as_much_again():
    assert sent(1, (10**6,), 4, switches=ZeroSwitches(reduce_to_owner=False)) == 1.5 * sent(1, (10**6,), 4)


def test_small_parameters_that_stay_whole_are_gathered_once_a_step():
    switches = ZeroSwitches(persistence_threshold=100, max_live=10**12, max_reuse=10**12)
    assert sent(3, (100, 1000), 2, accumulation=4, switches=switches) == 4 * (100 + 4 * 1000 + 4 * 1100)


def test_thresholds_between_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="try 0 for both, or at least 2000"):
        sent(3, (1000,), 2, switches=ZeroSwitches(max_live=500, max_reuse=500))
    with pytest.raises(ValueError, match="parallel.zero=4"):
        sent(4, (1000,), 2)


def outside(case: Case):
    """The rows of a case that are not within the limit."""
    found = worst(run_ranks(measure_bytes, case.ranks, case.config(), case.ranks, timeout=300), BYTES)
    assert any(row.theory for row in found)
    return [(row.where, row.what) for row in found if not BYTES.holds(row)]


def named(name):
    return next(case for case in BYTES_CASES if case.name == name)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=[] if case.quick else [pytest.mark.nightly])
                                  for case in BYTES_CASES])
def test_a_real_step_sends_what_the_theory_says(case):
    assert outside(case) == []


@pytest.mark.nightly
def test_an_all_reduce_too_many_is_seen(monkeypatch):
    once = Engine._update

    def twice(self):
        dist.all_reduce(torch.zeros(200_000), group=self._context.data)
        return once(self)

    monkeypatch.setattr(Engine, "_update", twice)
    assert ("expert_data=data=world", "all_reduce") in outside(named("ZeRO-1, dp 2, accumulation 2"))


@pytest.mark.nightly
def test_all_reduced_buckets_break_the_bound_of_zero_1():
    """DeepSpeed's own default sends 3 P (n - 1) / n; the theory knows it, and the bound does not hold."""
    name, ranks, accumulation, keys = "flipped", 2, 2, "parallel.deepspeed={zero_optimization: {use_multi_rank_bucket_allreduce: true}}"
    assert outside(Case(name, ranks, accumulation, ("parallel.zero=1", keys))) == [("ZeRO-1", "at most 2 P (n-1) / n")]


@pytest.mark.nightly
def test_an_all_reduce_that_is_missing_is_seen(monkeypatch):
    from hexareme.parallel import collectives

    monkeypatch.setattr(collectives._Copy, "backward", staticmethod(lambda ctx, gradient: (gradient, None)))
    assert ("tensor=model=world", "all_reduce") in outside(named("tp 2"))
