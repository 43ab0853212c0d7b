import itertools
import operator
from collections.abc import Iterator
from math import prod

import numpy as np
import pytest
import torch
from hexareme.core.checkpoint.slices import (
    Box,
    chunks,
    cut_at_blocks,
    flat_boxes,
    global_boxes,
    index_moments,
    runs,
    strides,
    tiling_fault,
)
from hexareme.parallel.partition import ShardSpec
from hypothesis import given
from hypothesis import strategies as st

from .layouts import Cut, Layout, local_flat

SHAPES = st.lists(st.integers(1, 6), max_size=4).map(tuple)


def _region(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(box.starts, box.shape, strict=True))


@given(SHAPES, st.data())
def test_flat_boxes_are_the_range_in_order(shape, data):
    count = prod(shape)
    begin = data.draw(st.integers(0, count))
    end = data.draw(st.integers(begin, count))
    elements = np.arange(count).reshape(shape)
    boxes = list(flat_boxes(shape, begin, end))
    assert [int(x) for box in boxes for x in elements[_region(box)].reshape(-1)] == list(range(begin, end))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


@given(SHAPES, st.integers(1, 40))
def test_chunks_are_row_major_and_bounded(shape, limit):
    elements = np.arange(prod(shape)).reshape(shape)
    boxes = list(chunks(shape, strides(shape), limit))
    assert [int(x) for box in boxes for x in elements[_region(box)].reshape(-1)] == list(range(prod(shape)))
    assert all(box.size <= limit for box in boxes)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.lists(st.integers(0, 7), min_size=3, max_size=3), st.integers(1, 60))
def test_strided_chunks_span_no_more_than_the_limit(shape, gaps, limit):
    outer = [length + gap for length, gap in zip(shape, gaps, strict=False)]
    steps = strides(outer)
    seen = []
    for box in chunks(tuple(shape), steps, limit):
        places = [sum(i * s for i, s in zip(np.add(index, box.starts), steps, strict=True)) for index in np.ndindex(box.shape)]
        assert max(places) - min(places) < limit
        seen += places
    assert seen == [sum(i * s for i, s in zip(index, steps, strict=True)) for index in np.ndindex(tuple(shape))]


@st.composite
def cut_tensors(draw):
    """A tensor and how it is cut; parts divisible by every degree up to 4."""
    how = draw(st.sampled_from(["whole", "parts", "padded"]))
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    dim = draw(st.integers(0, len(shape) - 1))
    parts = tuple(12 * k for k in draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))) if how == "parts" else ()
    shape[dim] = sum(parts) or shape[dim]
    return torch.arange(float(prod(shape))).reshape(shape), Cut("x", how, dim, parts)


@given(cut_tensors(), st.integers(1, 4), st.integers(1, 4))
def test_boxes_of_all_ranks_tile_the_tensor_and_hold_its_elements(tensor_and_cut, tp, zero):
    tensor, cut = tensor_and_cut
    layout = Layout(1 if cut.how == "whole" else tp, zero)
    boxes, hits = [], np.zeros(tuple(tensor.shape), int)
    for rank in range(layout.world_size):
        for _, spec, start, elements in local_flat({"x": tensor}, [cut], layout, rank):
            steps = strides(spec.local_shape)
            for box, local_starts in global_boxes(spec, start, elements.numel()):
                first = sum(i * s for i, s in zip(local_starts, steps, strict=True)) - start
                assert elements.as_strided(box.shape, steps, first).equal(tensor[_region(box)])
                hits[_region(box)] += 1
                boxes.append(box)
    assert (hits == 1).all()
    assert tiling_fault(tuple(tensor.shape), boxes) is None


@given(cut_tensors(), st.integers(2, 4), st.integers(2, 4), st.data())
def test_a_wrong_tiling_is_found(tensor_and_cut, tp, zero, data):
    tensor, cut = tensor_and_cut
    layout = Layout(1 if cut.how == "whole" else tp, zero)
    boxes = [
        placed.box
        for rank in range(layout.world_size)
        for _, spec, start, elements in local_flat({"x": tensor}, [cut], layout, rank)
        for placed in global_boxes(spec, start, elements.numel())
    ]
    at = data.draw(st.integers(0, len(boxes) - 1))
    shape = tuple(tensor.shape)
    assert tiling_fault(shape, boxes[:at] + boxes[at + 1 :])
    assert tiling_fault(shape, [*boxes, boxes[at]])
    dim = data.draw(st.integers(0, len(shape) - 1))
    by = data.draw(st.sampled_from([-1, 1]))
    moved = Box(tuple(start + by * (d == dim) for d, start in enumerate(boxes[at].starts)), boxes[at].shape)
    assert tiling_fault(shape, [*boxes[:at], moved, *boxes[at + 1 :]])


def test_equal_volume_with_overlap_and_hole_is_found():
    assert "overlap" in (tiling_fault((4, 4), [Box((0, 0), (2, 4)), Box((1, 0), (2, 4))]) or "")


@pytest.mark.parametrize("box", [Box((0,), (2,)), Box((0, 0), (0, 4)), Box((-1, 0), (2, 4)), Box((3, 0), (2, 4)), Box((0, 0), (2**62, 4))])
def test_boxes_outside_are_refused(box):
    assert tiling_fault((4, 4), [box])


def test_a_tensor_without_elements_needs_no_slices():
    assert tiling_fault((0, 4), []) is None
    assert list(global_boxes(ShardSpec.whole((0, 4)), 0, 0)) == []


def test_many_slices_are_checked_fast():
    boxes = [Box((row, column), (1, 1)) for row in range(200) for column in range(200)]
    assert tiling_fault((200, 200), boxes) is None
    assert "overlap" in (tiling_fault((200, 200), [*boxes[:-1], boxes[0]]) or "")


@given(st.lists(st.integers(1, 6), max_size=3), st.data())
def test_pieces_lie_in_one_block_each_and_cover_the_region(whole, data):
    shape = tuple(data.draw(st.integers(1, length)) for length in whole)
    first, block = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 50))
    steps, seen, last = strides(whole), [], -1
    for number, box in cut_at_blocks(shape, steps, first, block):
        places = [first + sum(map(operator.mul, at, steps)) for at in indices(box)]
        assert {place // block for place in places} == {number} and number >= last
        seen += list(indices(box))
        last = number
    assert sorted(seen) == sorted(indices(Box(tuple(0 for _ in shape), shape)))


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_runs_and_moments_of_a_box(whole, data):
    starts = tuple(data.draw(st.integers(0, length - 1)) for length in whole)
    box = Box(starts, tuple(data.draw(st.integers(1, length - start)) for length, start in zip(whole, starts, strict=True)))
    steps = strides(whole)
    flat = [sum(map(operator.mul, at, steps)) for at in indices(box)]
    assert [first + i for first, _, count in runs(box, whole) for i in range(count)] == flat
    assert [start + i for _, start, count in runs(box, whole) for i in range(count)] == list(range(box.size))
    assert index_moments(box, tuple(whole)) == (sum(flat), sum(each * each for each in flat))


def indices(box: Box) -> Iterator[tuple[int, ...]]:
    """Every element of a box, in row-major order."""
    return itertools.product(*(range(start, start + length) for start, length in zip(box.starts, box.shape, strict=True)))
