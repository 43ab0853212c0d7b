"""Boxes of tensors: how a flat piece of a cut tensor lies in the whole one. Pure: integers only, no torch.

A rank holds a shard of a tensor, and ZeRO gives it a flat range of that shard. In the whole (global) tensor such a range is a few
boxes; a checkpoint stores boxes of the global tensor, so it can be read back on any other layout.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

from ...parallel.partition import ShardSpec

MOST_CUTS = 24  # our own layouts need two or three rounds of cuts for each dim; a manifest that needs more is not one of ours


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a tensor: elements starts[d] .. starts[d] + shape[d] along each dim d."""

    starts: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def end(self, dim: int) -> int:
        """First index along `dim` that is no longer in the box."""
        return self.starts[dim] + self.shape[dim]

    def intersection(self, other: "Box") -> "Box | None":
        """The box that both share, or None."""
        starts = tuple(map(max, self.starts, other.starts))
        shape = tuple(min(self.end(d), other.end(d)) - start for d, start in enumerate(starts))
        return Box(starts, shape) if all(length > 0 for length in shape) else None

    def offset_in(self, other: "Box") -> int:
        """Position of this box's first element in the row-major elements of `other`, which contains it."""
        steps = strides(other.shape)
        return sum((mine - its) * step for mine, its, step in zip(self.starts, other.starts, steps, strict=True))


class PlacedBox(NamedTuple):
    """A box of the global tensor, and where the same elements start in the local one."""

    box: Box
    local_starts: tuple[int, ...]


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides of `shape`, in elements."""
    return tuple(prod(shape[dim + 1 :]) for dim in range(len(shape)))


def flat_boxes(shape: tuple[int, ...], begin: int, end: int) -> Iterator[Box]:
    """Cut elements [begin, end) of the flattened tensor into boxes, in flat order; at most 2 len(shape) - 1 of them."""
    if begin >= end:
        return
    if not shape:
        yield Box((), ())
        return
    inner = prod(shape[1:])
    row, skip = divmod(begin, inner)
    last, rest = divmod(end, inner)
    if skip or row == last:  # a part of one row
        yield from _in_row(row, flat_boxes(shape[1:], skip, rest if row == last else inner))
        row += 1
    if row < last:  # whole rows
        yield Box((row, *(0 for _ in shape[1:])), (last - row, *shape[1:]))
    if rest and row <= last:
        yield from _in_row(last, flat_boxes(shape[1:], 0, rest))


def _in_row(row: int, boxes: Iterable[Box]) -> Iterator[Box]:
    for box in boxes:
        yield Box((row, *box.starts), (1, *box.shape))


def global_boxes(shard: ShardSpec, start: int, count: int) -> Iterator[PlacedBox]:
    """Boxes of the global tensor that elements [start, start + count) of the flattened local tensor hold.

    Local rows that no piece of the shard names (the padding of a vocabulary) are in no box.

    Args:
        shard: how the local tensor lies in the global one.
        start: first element, in the flattened local tensor.
        count: number of elements.
    """
    for local in flat_boxes(tuple(shard.local_shape), start, start + count):
        if not local.starts:  # a scalar has no dim to cut
            yield PlacedBox(local, ())
            continue
        dim = shard.dim
        for piece in shard.pieces:
            low = max(local.starts[dim], piece.local)
            high = min(local.end(dim), piece.local + piece.length)
            if low < high:
                local_starts = _replaced(local.starts, dim, low)
                starts = _replaced(local.starts, dim, piece.start + low - piece.local)
                yield PlacedBox(Box(starts, _replaced(local.shape, dim, high - low)), local_starts)


def _replaced(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def chunks(shape: tuple[int, ...], steps: tuple[int, ...], limit: int) -> Iterator[Box]:
    """Cut a strided region into boxes that each span at most `limit` elements of memory, in row-major order.

    Args:
        shape: of the region.
        steps: its strides in elements, largest first.
        limit: most elements from a box's first to its last, both included; at least 1.
    """
    if not shape:
        yield Box((), ())
        return
    inner_span = 1 + sum((length - 1) * step for length, step in zip(shape[1:], steps[1:], strict=True))
    if inner_span > limit:
        for row in range(shape[0]):
            yield from _in_row(row, chunks(shape[1:], steps[1:], limit))
        return
    rows = 1 + (limit - inner_span) // max(steps[0], 1)
    for row in range(0, shape[0], rows):
        yield Box((row, *(0 for _ in shape[1:])), (min(rows, shape[0] - row), *shape[1:]))


def cut_at_blocks(shape: tuple[int, ...], steps: tuple[int, ...], first: int, block: int) -> Iterator[tuple[int, Box]]:
    """Cut a strided region of a file into boxes that each lie inside one block, in file order.

    Args:
        shape: of the region.
        steps: its strides in elements, largest first.
        first: position of its first element in the file, in elements.
        block: elements of a block.

    Yields:
        Number of the block, and the box inside the region.
    """
    if not shape:
        yield first // block, Box((), ())
        return
    inner_span = 1 + sum((length - 1) * step for length, step in zip(shape[1:], steps[1:], strict=True))
    row = 0
    while row < shape[0]:
        start = first + row * steps[0]
        room = block - start % block
        if inner_span > room:  # this row crosses a border
            for number, box in cut_at_blocks(shape[1:], steps[1:], start, block):
                yield number, Box((row, *box.starts), (1, *box.shape))
            row += 1
            continue
        rows = min(1 + (room - inner_span) // max(steps[0], 1), shape[0] - row)
        yield start // block, Box((row, *(0 for _ in shape[1:])), (rows, *shape[1:]))
        row += rows


def runs(box: Box, whole: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """A box as contiguous runs of the flattened whole tensor.

    Yields:
        First element in the whole, first element in the box, elements.
    """
    split = len(whole)
    while split and box.shape[split - 1] == whole[split - 1]:
        split -= 1  # dims from `split` on are whole; one more may be a part
    inner = max(split - 1, 0)
    count, steps = prod(box.shape[inner:]), strides(whole)
    first = sum(start * step for start, step in zip(box.starts, steps, strict=True))
    for number, outer in enumerate(product(*(range(length) for length in box.shape[:inner]))):
        yield first + sum(at * step for at, step in zip(outer, steps[:inner], strict=True)), number * count, count


def index_moments(box: Box, whole: tuple[int, ...]) -> tuple[int, int]:
    """Sum of the flat indices of a box's elements in the whole tensor, and sum of their squares; exact, without visiting them."""
    steps = strides(whole)
    base = sum(start * step for start, step in zip(box.starts, steps, strict=True))
    count, first, second = 1, base, base * base
    for length, step in zip(box.shape, steps, strict=True):
        ones, squares = length * (length - 1) // 2 * step, (length - 1) * length * (2 * length - 1) // 6 * step * step
        second = second * length + 2 * first * ones + count * squares
        first = first * length + count * ones
        count *= length
    return first, second


def tiling_fault(shape: tuple[int, ...], boxes: Sequence[Box]) -> str | None:
    """Say why the boxes do not cover the tensor exactly once, or None when they do.

    Boxes that cannot be told apart by straight cuts through the whole group count as overlapping: every layout that we write can
    (first the tensor axis, then rows, then within a row), and so the check takes n log n.
    """
    for box in boxes:
        if len(box.starts) != len(shape) or len(box.shape) != len(shape):
            return f"the slice at {list(box.starts)} of shape {list(box.shape)} has another number of dims than the tensor {list(shape)}"
        if any(start < 0 or length < 1 or start + length > full for start, length, full in zip(box.starts, box.shape, shape, strict=True)):
            return f"the slice at {list(box.starts)} of shape {list(box.shape)} leaves the tensor {list(shape)}"
    held, needed = sum(box.size for box in boxes), prod(shape)
    if held != needed:
        return f"its slices hold {held} elements, the tensor {list(shape)} has {needed}"
    return _overlap(list(boxes))


def _overlap(boxes: list[Box]) -> str | None:
    groups = [boxes]
    for _ in range(MOST_CUTS):
        groups = [part for group in groups if len(group) > 1 for part in _cut(group)]
        if not groups:
            return None
    crowded = [group[0] for group in groups if len(group) > 1]
    return f"slices overlap near {list(crowded[0].starts)}" if crowded else None


def _cut(group: list[Box]) -> list[list[Box]]:
    """Part a group by every straight cut across the first dim that has any."""
    for dim in range(len(group[0].starts)):
        parts: list[list[Box]] = []
        reach = -1
        for box in sorted(group, key=lambda box: box.starts[dim]):
            if box.starts[dim] >= reach:
                parts.append([])
            parts[-1].append(box)
            reach = max(reach, box.end(dim))
        if len(parts) > 1:
            return parts
    return [group]
