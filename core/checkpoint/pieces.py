"""Parts of saved tensors that lie in one block of a file: what a load copies and an export writes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from .blocks import Block
from .dtypes import ITEM_SIZES
from .manifest import BLOCK_BYTES, SavedSlice, SavedTensor
from .slices import Box, cut_at_blocks, strides
from .strict_json import damaged


class Piece(NamedTuple):
    """Elements of a tensor that lie in one block of a file."""

    saved: SavedTensor
    box: Box  # of the whole tensor
    offset: int  # byte of the first element in the block
    span: int  # elements from the first to the last, both included
    steps: tuple[int, ...]  # strides of the elements in the block

    def elements(self, content: memoryview, path: Path) -> torch.Tensor:
        """They, as a view of the block's verified content; all of them are finite.

        Raises:
            DamagedError: naming the tensor and the file.
        """
        flat = torch.frombuffer(content, dtype=getattr(torch, self.saved.dtype), offset=self.offset, count=self.span)
        found = flat.as_strided(self.box.shape, self.steps)
        if not _finite(found):
            raise damaged(path, f"{self.saved.name} ({self.saved.kind}) holds numbers that are not finite")
        return found


def pieces(saved: SavedTensor, part: SavedSlice, wanted: Box) -> Iterator[tuple[Block, Piece]]:
    """Where in which blocks a box of one slice lies.

    Args:
        saved: the tensor.
        part: a slice of it.
        wanted: a box of the tensor, inside the slice.
    """
    size, steps = ITEM_SIZES[saved.dtype], strides(part.box.shape)
    first = part.offset // size + wanted.offset_in(part.box)
    for number, inner in cut_at_blocks(wanted.shape, steps, first, BLOCK_BYTES // size):
        start = first + sum(begin * step for begin, step in zip(inner.starts, steps, strict=True))
        span = 1 + sum((length - 1) * step for length, step in zip(inner.shape, steps, strict=True))
        box = Box(tuple(a + b for a, b in zip(wanted.starts, inner.starts, strict=True)), inner.shape)
        yield Block(part.file, number), Piece(saved, box, start * size - number * BLOCK_BYTES, span, steps)


def _finite(elements: torch.Tensor) -> bool:
    """Whether all are finite; a sum tells in one pass unless it overflows itself."""
    if not elements.is_floating_point() or elements.element_size() == 1:  # nothing of ours is saved in 8 bits
        return True
    return math.isfinite(elements.sum().item()) or bool(elements.isfinite().all())
