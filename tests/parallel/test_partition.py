"""Shard specs: together they hold each element exactly once, and cut as the layers do."""

import numpy as np
import pytest
from hexareme.parallel.partition import Piece, ShardSpec, shard_padded, shard_parts, shard_repeated
from hypothesis import given
from hypothesis import strategies as st


def take(whole: np.ndarray, spec: ShardSpec) -> np.ndarray:
    """The local tensor, by the definition of a piece; padding is -1."""
    local = np.full(spec.local_shape, -1)
    for piece in spec.pieces:
        source = np.take(whole, range(piece.start, piece.start + piece.length), axis=spec.dim)
        np.moveaxis(local, spec.dim, 0)[piece.local:piece.local + piece.length] = np.moveaxis(source, spec.dim, 0)
    return local


def check_runs(whole: np.ndarray, spec: ShardSpec) -> None:
    flat, by_runs = whole.reshape(-1), np.full(spec.local_shape, -1).reshape(-1)
    previous = 0
    for local, start, length in spec.runs():
        assert local >= previous
        by_runs[local:local + length] = flat[start:start + length]
        previous = local + length
    assert np.array_equal(by_runs.reshape(spec.local_shape), take(whole, spec))


@given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 1))
def test_parts_are_cut_each_by_itself(degree: int, units: list[int], other: int, dim: int) -> None:
    parts = [unit * degree for unit in units]
    shape = (sum(parts), other) if dim == 0 else (other, sum(parts))
    whole = np.arange(np.prod(shape)).reshape(shape)
    specs = [shard_parts(shape, dim=dim, parts=parts, degree=degree, index=i) for i in range(degree)]
    for i, spec in enumerate(specs):
        wanted = [np.split(part, degree, axis=dim)[i] for part in np.split(whole, np.cumsum(parts)[:-1], axis=dim)]
        assert np.array_equal(take(whole, spec), np.concatenate(wanted, axis=dim))
        assert spec.replicated == (degree == 1)
        check_runs(whole, spec)


@given(st.integers(1, 40), st.integers(1, 9))
def test_padded_shards_hold_each_row_once(rows: int, degree: int) -> None:
    whole = np.arange(rows * 2).reshape(rows, 2)
    specs = [shard_padded((rows, 2), dim=0, degree=degree, index=i) for i in range(degree)]
    padded = np.concatenate([whole, np.full((degree * -(-rows // degree) - rows, 2), -1)])
    for i, spec in enumerate(specs):
        assert np.array_equal(take(whole, spec), np.split(padded, degree)[i])
        assert spec.replicated == np.array_equal(take(whole, spec), whole)
        check_runs(whole, spec)


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 2), min_size=1, max_size=2), st.integers(1, 2), st.integers(1, 3))
def test_repeated_parts_lie_on_neighbouring_shards(distinct: int, repeats: int, units: list[int], other: int, own: int) -> None:
    degree, parts, repeated = distinct * repeats, [own * distinct * repeats], [unit * distinct for unit in units]
    shape = (sum(parts) + sum(repeated), other)
    whole = np.arange(np.prod(shape)).reshape(shape)
    cut, shared = whole[:parts[0]], np.split(whole[parts[0]:], np.cumsum(repeated)[:-1])
    for i in range(degree):
        specs = shard_repeated(shape, parts=parts, repeated=repeated, degree=degree, index=i, distinct=distinct)
        assert np.array_equal(take(whole, specs[0]), np.split(cut, degree)[i])
        assert np.array_equal(take(whole, specs[1]), np.concatenate([np.split(part, distinct)[i // repeats] for part in shared]))
        for spec in specs:
            check_runs(whole, spec)


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (3, 4, 2)])
def test_whole_tensors_are_replicated(shape: tuple[int, ...]) -> None:
    spec = ShardSpec.whole(shape)
    assert spec.replicated
    assert spec.local_shape == shape
    assert sum(length for _, _, length in spec.runs()) == np.prod(shape)


def test_a_permutation_is_no_replica() -> None:
    assert not ShardSpec((4,), 0, (Piece(0, 2, 2), Piece(2, 0, 2)), 4).replicated


@pytest.mark.parametrize(("pieces", "local_size"), [
    ((Piece(0, 3, 2),), 4), ((Piece(3, 0, 2),), 4), ((Piece(0, 0, 2), Piece(1, 2, 1)), 4), ((Piece(0, 0, 0),), 4)])
def test_pieces_that_do_not_fit_are_refused(pieces: tuple[Piece, ...], local_size: int) -> None:
    with pytest.raises(ValueError):
        ShardSpec((4,), 0, pieces, local_size)


def test_parts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel.tp=4.*size 6.*try tp in \[1, 2, 3, 6\]"):
        shard_parts((10, 2), dim=0, parts=(4, 6), degree=4, index=0)
    with pytest.raises(ValueError, match="add up to 10"):
        shard_parts((10, 2), dim=0, parts=(4, 4), degree=4, index=0)
    with pytest.raises(ValueError, match="add up to 10"):
        shard_repeated((10, 2), parts=(4,), repeated=(2, 2), degree=4, index=0, distinct=2)
    with pytest.raises(ValueError, match="3 distinct slices must divide 4 shards"):
        shard_repeated((10, 2), parts=(4,), repeated=(3, 3), degree=4, index=0, distinct=3)
