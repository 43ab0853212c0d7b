"""State that each rank holds: the theory by itself, and live tensors beside it."""

import pytest
from hexareme.core.bench.memory import measure_memory
from hexareme.core.bench.suites import MEMORY, MEMORY_CASES
from hexareme.core.bench.table import worst
from hexareme.core.engine import holdings
from hexareme.core.memory import state_bytes
from hexareme.core.traffic import Replicas, ZeroSwitches
from hypothesis import given
from hypothesis import strategies as st

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SIZES = st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(tuple)


NONE_PERSIST = ZeroSwitches()


def all_ranks(stage, sizes, n, switches=NONE_PERSIST):
    return [state_bytes(stage, [Replicas("data", n, rank, sizes)], switches) for rank in range(n)]


@given(SIZES, st.integers(1, 9))
def test_zero_holds_what_its_paper_says(sizes, n):
    """Rajbhandari et al. 2020, section 5, in fp32: each part of the state whole on every rank, or once over all of them."""
    P, slack = 4 * sum(sizes), 4 * 3 * len(sizes) * n
    for stage, whole in ((0, {"parameters", "gradients", "moments"}), (1, {"parameters", "gradients"}), (2, {"parameters"}), (3, set())):
        ranks = all_ranks(stage, sizes, n)
        for kind, copies in (("parameters", 1), ("gradients", 1), ("moments", 2), ("masters", 1 if stage else 0)):
            total = sum(getattr(rank, kind) for rank in ranks)
            expected = copies * P * (n if kind in whole else 1)
            # stage 2 makes room for all of a gradient where a part of it is its own: at most one parameter at each seam
            seams = 4 * max(sizes) * 2 * n if (stage, kind) == (2, "gradients") else 0
            assert expected <= total <= expected + 2 * copies * slack * n + seams


def test_persistent_parameters_lie_whole_beside_their_part():
    [first, _] = all_ranks(3, (10, 1000), 2, ZeroSwitches(persistence_threshold=10))
    assert first.parameters == 4 * (5 + 500 + 10) and first.masters == 4 * 505


def outside(case):
    found = worst(run_ranks(measure_memory, case.ranks, case.config(), case.ranks, timeout=300), MEMORY)
    return [row.where for row in found if not MEMORY.holds(row)]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=[] if case.name.startswith("ZeRO-2, dp 2") else
                                               [pytest.mark.nightly]) for case in MEMORY_CASES])
def test_live_tensors_are_what_the_theory_says(case):
    assert outside(case) == []


@pytest.mark.nightly
def test_a_second_copy_of_the_masters_is_seen(monkeypatch):
    once = holdings._by_kind

    def twice(engine):
        parameters, masters, moments, gradients = once(engine)
        return parameters, [*masters, *(each.detach().clone() for each in masters)], moments, gradients

    monkeypatch.setattr(holdings, "_by_kind", twice)
    assert outside(MEMORY_CASES[1]) == ["masters", "state"]
