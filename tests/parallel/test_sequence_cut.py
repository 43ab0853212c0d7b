"""Where each token of a window lies on the context axis: pure rules, held against the definition of a causal mask."""

from typing import Any

import pytest
from hexareme.parallel.sequence_cut import KINDS, chunks, places, ring_block
from hypothesis import given
from hypothesis import strategies as st

degrees = st.integers(1, 9)
sizes = st.integers(1, 5)


@given(cp=degrees, size=sizes, kind=st.sampled_from(KINDS))
def test_every_place_is_on_one_rank_and_every_rank_has_as_many(cp: int, size: int, kind: str) -> None:
    S = 2 * cp * size
    held = [places(S, cp=cp, rank=rank, kind=kind) for rank in range(cp)]
    assert sorted(place for rank in held for place in rank) == list(range(S))
    assert {len(rank) for rank in held} == {2 * size}
    assert all(rank == sorted(rank) for rank in held)


@given(cp=degrees, size=sizes)
def test_ring_gives_every_rank_the_same_causal_work(cp: int, size: int) -> None:
    S = 2 * cp * size
    work = {sum(place + 1 for place in places(S, cp=cp, rank=rank, kind="ring")) for rank in range(cp)}
    assert work == {S * (S + 1) // 2 // cp}


@given(cp=degrees, size=sizes, data=st.data())
def test_the_blocks_of_a_query_are_the_keys_a_causal_mask_shows_it(cp: int, size: int, data: Any) -> None:
    S = 2 * cp * size
    rank, source = (data.draw(st.integers(0, cp - 1)) for _ in range(2))
    queries, keys = (places(S, cp=cp, rank=r, kind="ring") for r in (rank, source))
    block = ring_block(rank, source, len(queries))
    computed = {(q, k) for q in queries[block.queries] for k in keys[block.keys] if not block.causal or q >= k}
    assert computed == {(q, k) for q in queries for k in keys if q >= k}
    if source != rank:  # and no pair is computed in vain
        assert len(computed) == len(queries) * len(keys) // 2


def test_plain_neighbouring_parts_would_not_be_balanced() -> None:
    work = [sum(place + 1 for place in places(16, cp=4, rank=rank, kind="ulysses")) for rank in range(4)]
    assert work == [10, 26, 42, 58]


def test_the_cut_of_eight_places_over_two_ranks() -> None:
    assert chunks(8, cp=2, rank=0, kind="ring") == [range(2), range(6, 8)]
    assert chunks(8, cp=2, rank=1, kind="ring") == [range(2, 4), range(4, 6)]
    assert chunks(8, cp=2, rank=1, kind="ulysses") == [range(4, 8)]
    assert chunks(7, cp=1, rank=0, kind="ring") == [range(7)]  # a context of one is never cut


@pytest.mark.parametrize(("length", "cp", "kind", "message"), [
    (18, 4, "ring", r"model.sequence_length=18 cannot be cut into 2 \* parallel.cp=4 equal chunks .* "
                    r"try model.sequence_length=16 or 24, or parallel.cp in \[1, 3, 9\]"),
    (18, 4, "ulysses", r"model.sequence_length=18 .* parallel.cp=4 equal parts .*; try model.sequence_length=16 or 20, "
                       r"or parallel.cp in \[1, 2, 3, 6, 9, 18\]"),
    (5, 4, "ring", r"try model.sequence_length=8, or parallel.cp in \[1\]"),
    (16, 2, "star", "parallel.context_attention='star' is unknown; choose from")])
def test_a_window_that_does_not_fit_is_refused_with_the_way_out(length: int, cp: int, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunks(length, cp=cp, rank=0, kind=kind)


def test_a_rank_outside_the_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="rank=2 is outside the 2 ranks"):
        chunks(16, cp=2, rank=2, kind="ring")
