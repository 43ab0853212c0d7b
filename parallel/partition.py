"""Which elements of a whole tensor lie on which rank. Pure arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from .topology import divisors


@dataclass(frozen=True)
class Piece:
    """Local indices [local, local + length) along the cut dim hold global indices [start, start + length)."""

    local: int
    start: int
    length: int


@dataclass(frozen=True)
class ShardSpec:
    """The part of a global tensor that lies on this rank.

    Args:
        shape: the global shape, without padding.
        dim: the dim that is cut.
        pieces: ascending in `local`, without overlap. Local indices that no piece names are padding: always zero, saved nowhere.
        local_size: local size of `dim`, padding included.

    Raises:
        ValueError: the pieces do not fit.
    """

    shape: tuple[int, ...]
    dim: int
    pieces: tuple[Piece, ...]
    local_size: int

    def __post_init__(self) -> None:
        if not (self.dim == 0 == len(self.shape) or 0 <= self.dim < len(self.shape)):
            raise ValueError(f"dim={self.dim} is not a dim of shape {self.shape}")
        size = self.shape[self.dim] if self.shape else 1
        for piece in self.pieces:
            if piece.length < 1 or piece.start < 0 or piece.start + piece.length > size:
                raise ValueError(f"{piece} is outside global size {size}")
            if piece.local < 0 or piece.local + piece.length > self.local_size:
                raise ValueError(f"{piece} is outside local size {self.local_size}")
        for a, b in pairwise(self.pieces):
            if a.local + a.length > b.local:
                raise ValueError(f"{a} and {b} overlap or are out of order")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "ShardSpec":
        """The spec of a tensor that lies here whole."""
        size = shape[0] if shape else 1
        return cls(tuple(shape), 0, (Piece(0, 0, size),) if size else (), size)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the local tensor, padding included."""
        return (*self.shape[:self.dim], self.local_size, *self.shape[self.dim + 1:]) if self.shape else ()

    @property
    def replicated(self) -> bool:
        """Whether the whole tensor lies here, unpermuted and unpadded."""
        size = self.shape[self.dim] if self.shape else 1
        if self.local_size != size or sum(piece.length for piece in self.pieces) != size:
            return False
        return all(piece.local == piece.start for piece in self.pieces)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Contiguous runs (local offset, global offset, length) of the flattened local and global tensor, in local order."""
        size = self.shape[self.dim] if self.shape else 1
        outer, inner = prod(self.shape[:self.dim]), prod(self.shape[self.dim + 1:])
        for o in range(outer):
            for piece in self.pieces:
                yield (o * self.local_size + piece.local) * inner, (o * size + piece.start) * inner, piece.length * inner


def shard_parts(shape: Sequence[int], *, dim: int, parts: Sequence[int], degree: int, index: int) -> ShardSpec:
    """Cut `dim` into consecutive `parts` and each part evenly; shard `index` holds its slice of every part.

    A fused projection (q, k, v) is cut this way, so that a rank holds whole heads of each.

    Args:
        shape: the global shape.
        dim: the dim to cut.
        parts: sizes that add up to `shape[dim]`.
        degree, index: number of shards, and which one.

    Raises:
        ValueError: the parts do not add up, or one is not divisible by `degree`.
    """
    if sum(parts) != shape[dim]:
        raise ValueError(f"parts={tuple(parts)} must add up to {shape[dim]}")
    pieces = _even_pieces(parts, 0, degree, index)
    return _packed(shape, dim, pieces)


def _packed(shape: Sequence[int], dim: int, pieces: tuple[Piece, ...]) -> ShardSpec:
    """The spec of pieces that lie one after the other, without padding."""
    return ShardSpec(tuple(shape), dim, pieces, sum(piece.length for piece in pieces))


def _even_pieces(parts: Sequence[int], start: int, degree: int, index: int) -> tuple[Piece, ...]:
    """Slice `index` of `degree` of every part, one after the other; the first part begins at `start`."""
    pieces, local = [], 0
    for part in parts:
        if part % degree:
            raise ValueError(f"parallel.tp={degree} must divide the size {part} of a layer's part; try tp in {divisors(part)}")
        length = part // degree
        pieces.append(Piece(local, start + index * length, length))
        local, start = local + length, start + part
    return tuple(pieces)


def shard_padded(shape: Sequence[int], *, dim: int, degree: int, index: int) -> ShardSpec:
    """Cut `dim` into blocks of ceil(size / degree); the last blocks may be partly or wholly padding.

    Args:
        shape: the global shape.
        dim: the dim to cut.
        degree, index: number of shards, and which one.
    """
    size = shape[dim]
    local_size = -(-size // degree)
    start = index * local_size
    length = max(0, min(local_size, size - start))
    return ShardSpec(tuple(shape), dim, (Piece(0, start, length),) if length else (), local_size)


def shard_repeated(shape: Sequence[int], *, parts: Sequence[int], repeated: Sequence[int], degree: int, index: int,
                   distinct: int) -> tuple[ShardSpec, ShardSpec]:
    """Cut dim 0 into consecutive `parts`, each cut evenly over all shards, then `repeated` ones, each cut into fewer: `distinct`.

    Shard `index` holds slice `index * distinct // degree` of every repeated part, as do its degree / distinct neighbours.

    Args:
        shape: the global shape; the parts of both kinds add up to `shape[0]`.
        parts, repeated: sizes.
        degree, index: number of shards, and which one.
        distinct: number of different slices of the repeated parts; it divides `degree`.

    Returns:
        What the shard holds of `parts`, and what it holds of `repeated`.

    Raises:
        ValueError: the parts do not add up, or cannot be cut evenly.
    """
    if sum(parts) + sum(repeated) != shape[0]:
        raise ValueError(f"parts={tuple(parts)} and {tuple(repeated)} must add up to {shape[0]}")
    if degree % distinct:
        raise ValueError(f"{distinct} distinct slices must divide {degree} shards")
    shared = _even_pieces(repeated, sum(parts), distinct, index * distinct // degree)
    return _packed(shape, 0, _even_pieces(parts, 0, degree, index)), _packed(shape, 0, shared)
