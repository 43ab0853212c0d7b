"""The audit of replicas by itself: what a digest tells apart, whose tensors are compared, and what is said of those that differ."""

import pytest
import torch
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.engine import replicas
from hexareme.core.engine.replicas import Digests, Replicas
from hexareme.core.errors import DriftError
from hexareme.parallel.partition import ShardSpec, shard_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ranks import run_ranks, world

ROW = replicas._ROW
CPU = torch.device("cpu")
DIGESTS = Digests()
DTYPES = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 16, torch.float64: 64, torch.int64: 64, torch.uint8: 8}
SIZES = (1, 63, ROW - 1, ROW, ROW + 1, 2 * ROW, 3 * ROW + 5)


def random_bits(dtype, size):
    width = DTYPES[dtype] // 8
    return torch.randint(0, 256, (size * width,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size)).view(dtype)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(DTYPES)), st.sampled_from(SIZES), st.data())
def test_every_flipped_bit_is_seen(dtype, size, data):
    tensor = random_bits(dtype, size)
    before = int(DIGESTS.of(tensor))
    place, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, DTYPES[dtype] - 1))
    tensor.view(torch.uint8)[place * DTYPES[dtype] // 8 + bit // 8] ^= 1 << bit % 8
    assert int(DIGESTS.of(tensor)) != before


@pytest.mark.parametrize(("first", "second"), [(0, 1), (5, ROW + 5), (ROW - 1, ROW), (0, 3 * ROW + 4), (ROW + 7, 2 * ROW + 7)])
def test_two_values_that_change_places_are_seen(first, second, monkeypatch):
    tensor = random_bits(torch.float32, 3 * ROW + 5)
    swapped = tensor.clone()
    swapped[[first, second]] = tensor[[second, first]]
    assert int(DIGESTS.of(tensor)) != int(DIGESTS.of(swapped))
    monkeypatch.setattr(replicas, "_odd", lambda key, numbers: torch.ones_like(numbers))  # the mutant: a plain sum
    assert int(Digests().of(tensor)) == int(Digests().of(swapped))


def test_changes_that_cancel_in_a_sum_are_seen():
    """A thousand tensors, each with many values moved by one ulp, half of them up and half of them down."""
    tensor = torch.ones(256)
    before = int(DIGESTS.of(tensor))
    for trial in range(1000):
        places = torch.randperm(256, generator=torch.Generator().manual_seed(trial))[:64]
        moved = tensor.clone().view(torch.int32)
        moved[places[:32]] += 1
        moved[places[32:]] -= 1
        assert int(DIGESTS.of(moved.view(torch.float32))) != before


@pytest.mark.parametrize("size", SIZES)
def test_a_digest_does_not_depend_on_how_much_is_done_at_a_time(size):
    """As a GPU adds up, 64 rows at a time, and as its definition says, in Python's own integers."""
    tensor = random_bits(torch.float32, size)
    found = int(DIGESTS.of(tensor))
    bits, factors = tensor.view(torch.int32), DIGESTS._of_places(CPU).tolist()
    of_rows = [1, *replicas._odd(replicas.stream_key(0, "rows"), torch.arange(1, 8)).tolist()]
    total = sum(value * factors[i % ROW] * of_rows[i // ROW] for i, value in enumerate(bits.tolist())) % 2**64
    assert found % 2**64 == total
    assert size <= ROW or int(DIGESTS._of_rows(bits, 0)) == found


def audited(rank, own):
    """What this rank's audit says of its fragments: a function of (rank, name) -> tensor or None."""
    def held():
        for name, shard in (("norm", ShardSpec.whole((100,))), ("bias", ShardSpec.whole((7,))), ("cut", None)):
            tensor = own(rank, name)
            if tensor is not None:
                spec = shard or shard_parts((200,), dim=0, parts=(200,), degree=2, index=rank % 2)
                yield Fragment(name, "parameter", spec, 0, tensor)

    audit = Replicas(held, world=world(), device=CPU)
    try:
        audit.check()
    except DriftError as error:
        return str(error), error.do
    return None


def alike(rank, name):
    if name == "bias":
        return torch.zeros(7) if rank < 2 else None  # not every rank holds it
    return torch.arange(100.0) + (100.0 * (rank % 2) if name == "cut" else 0.0)


def with_changes(changes):
    def own(rank, name):
        tensor = alike(rank, name)
        for place in changes.get((rank, name), ()):
            tensor[place] += 1.0
        return tensor

    return own


@pytest.mark.parametrize(("changes", "says"), [
    ({}, None),
    ({(2, "norm"): [3, 4]}, "rank 2 against ranks 0, 1, 3: norm (2 of 100 values)"),
    ({(1, "bias"): [0]}, "rank 1 against rank 0: bias (1 of 7 values)"),
    ({(3, "cut"): [99]}, "rank 3 against rank 1: cut (1 of 100 values)"),
    ({(2, "norm"): [0], (2, "cut"): [1]},
     "rank 2 against ranks 0, 1, 3: norm (1 of 100 values); rank 2 against rank 0: cut (1 of 100 values)"),
    ({(rank, "norm"): [rank] for rank in range(4)}, "ranks 1, 2, 3 against rank 0: norm (2 of 100 values)"),
])
def test_what_differs_where_is_said_alike_by_all_ranks(changes, says):
    found = run_ranks(audited, 4, with_changes(changes))
    assert len(set(found)) == 1
    assert found[0] == says if says is None else found[0][0] == f"replicas have drifted apart: {says}"


@pytest.mark.parametrize(("changes", "machines"), [({(2, "norm"): [0]}, "rank 2"), ({(1, "bias"): [0]}, "ranks 0, 1")])
def test_the_way_out_names_the_machines_that_may_be_at_fault(changes, machines):
    """A majority shows who is wrong; of two that differ, both may be."""
    assert f"machine of {machines} checked" in run_ranks(audited, 4, with_changes(changes))[0][1]


def test_more_tensors_than_a_message_holds(monkeypatch):
    def many(rank):
        fragments = [Fragment(f"t{i}", "parameter", ShardSpec.whole((4,)), 0, torch.full((4,), float(rank))) for i in range(12)]
        with pytest.raises(DriftError) as caught:
            Replicas(lambda: fragments, world=world(), device=CPU).check()
        return str(caught.value)

    assert run_ranks(many, 2)[0] == (
        "replicas have drifted apart: rank 1 against rank 0: t0 (4 of 4 values), t1 (4 of 4 values), t2 (4 of 4 values), "
        "t3 (4 of 4 values), t4 (4 of 4 values); and 7 more tensors")


def test_tensors_that_come_later_are_compared_from_then_on():
    """An optimizer makes its moments at its first update."""
    def growing(rank):
        fragments = [Fragment("weight", "parameter", ShardSpec.whole((4,)), 0, torch.zeros(4))]
        audit = Replicas(lambda: fragments, world=world(), device=CPU)
        audit.check()
        fragments.append(Fragment("weight", "exp_avg", ShardSpec.whole((4,)), 0, torch.full((4,), float(rank))))
        with pytest.raises(DriftError, match=r"weight \(exp_avg\)"):
            audit.check()
        return True

    assert run_ranks(growing, 2) == [True, True]
