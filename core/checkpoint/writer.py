"""What one rank writes: the bytes of a safetensors file, made a block at a time, and the list of what lies in it."""

import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

from .dtypes import ITEM_SIZES, SAFETENSORS_NAMES
from .finite import FloatSpan, is_float, merged
from .fragment import Fragment
from .manifest import BLOCK_BYTES, SavedSlice, SavedTensor
from .slices import Box, flat_boxes, global_boxes, strides


@dataclass(frozen=True, slots=True)
class Entry:
    """One slice to write: the box of the global tensor, and the live elements that fill it."""

    fragment: Fragment
    box: Box
    elements: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return self.box.size * ITEM_SIZES[self.fragment.dtype]


def entries_of(fragments: Iterable[Fragment]) -> list[Entry]:
    """What this rank writes, wider element types first, so that every slice is aligned in the file."""
    entries = [
        Entry(fragment, placed.box, live_box(fragment, placed.local_starts, placed.box.shape))
        for fragment in fragments
        if fragment.write
        for placed in global_boxes(fragment.shard, fragment.start, fragment.tensor.numel())
    ]
    return sorted(entries, key=lambda entry: -ITEM_SIZES[entry.fragment.dtype])


def live_box(fragment: Fragment, local_starts: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """The view of a fragment's storage that is this box of the local tensor."""
    flat = fragment.tensor.detach()
    steps = strides(fragment.shard.local_shape)
    first = sum(start * step for start, step in zip(local_starts, steps, strict=True))
    return flat.as_strided(shape, steps, flat.storage_offset() + first - fragment.start)


class Image:
    """The bytes of a rank's file, header first, as a function of live storage.

    Args:
        entries: its slices, in order.
    """

    header: bytes
    size: int

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self.header = _header(entries)
        self._offsets = list(accumulate((entry.size for entry in entries), initial=len(self.header)))
        self.size = self._offsets[-1]

    def tensors(self, file: str) -> list[SavedTensor]:
        """What lies in it: each tensor with the slices that lie here.

        Args:
            file: its name.
        """
        first: dict[tuple[str, str], Fragment] = {}
        slices: dict[tuple[str, str], list[SavedSlice]] = {}
        for entry, offset in zip(self._entries, self._offsets[:-1], strict=True):
            key = entry.fragment.name, entry.fragment.kind
            first.setdefault(key, entry.fragment)
            slices.setdefault(key, []).append(SavedSlice(file, offset, entry.box))
        return [SavedTensor(*key, first[key].dtype, tuple(first[key].shard.shape), tuple(parts)) for key, parts in slices.items()]

    def floats(self) -> list[FloatSpan]:
        """Where its floating-point elements lie."""
        return merged([
            FloatSpan(offset, offset + entry.size, entry.fragment.dtype, f"{entry.fragment.name} ({entry.fragment.kind})")
            for entry, offset in zip(self._entries, self._offsets[:-1], strict=True) if is_float(entry.fragment.dtype)
        ])

    @cached_property
    def on_device(self) -> bool:
        """Whether an element lies on a GPU."""
        return any(entry.elements.is_cuda for entry in self._entries)

    def fill(self, target: memoryview, begin: int) -> None:
        """Copy bytes [begin, begin + len(target)) of the file.

        Args:
            target: writable host memory; page-locked, it is filled from a GPU without a stop between tensors.
            begin: a multiple of 8, or of the widest element.
        """
        end = begin + len(target)
        if begin < len(self.header):
            part = self.header[begin:end]
            target[: len(part)] = part
        at = max(bisect_right(self._offsets, begin) - 1, 0)
        while at < len(self._entries) and self._offsets[at] < end:
            offset, entry = self._offsets[at], self._entries[at]
            low, high = max(begin, offset), min(end, offset + entry.size)
            if low < high:
                _copy(entry.elements, low - offset, high - low, target[low - begin : high - begin])
            at += 1
        if self.on_device:
            torch.cuda.synchronize()


class BlockBuffer:
    """Blocks of an image, each in one of two buffers by turns: no second copy of the state is ever in memory.

    Args:
        image: of the file.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._buffers = [bytearray(min(BLOCK_BYTES, image.size)) for _ in range(2)]

    def block(self, begin: int, end: int) -> memoryview:
        """Bytes [begin, end); good until the next call but one."""
        target = memoryview(self._buffers[begin // BLOCK_BYTES % 2])[: end - begin]
        self._image.fill(target, begin)
        return target


def _copy(elements: torch.Tensor, begin: int, count: int, target: memoryview) -> None:
    """Bytes [begin, begin + count) of the elements in row-major order."""
    size = elements.element_size()
    if elements.is_contiguous() and not elements.is_cuda:  # memcpy: torch's own copy takes three times as long
        source = elements.view(-1)[begin // size : (begin + count) // size].view(torch.uint8).numpy()
        np.copyto(np.frombuffer(target, dtype=np.uint8), source)
        return
    flat = torch.frombuffer(target, dtype=elements.dtype)
    if elements.is_contiguous():
        flat.copy_(elements.view(-1)[begin // size : (begin + count) // size], non_blocking=True)
        return
    done = 0
    for box in flat_boxes(tuple(elements.shape), begin // size, (begin + count) // size):
        piece = elements[tuple(slice(start, box.end(dim)) for dim, start in enumerate(box.starts))]
        flat[done : done + box.size].view(box.shape).copy_(piece, non_blocking=True)
        done += box.size


def _header(entries: list[Entry]) -> bytes:
    """Length and JSON header of a safetensors file (github.com/huggingface/safetensors, "Format"), padded to 8 bytes."""
    fields: dict[str, dict[str, object]] = {}
    offset = 0
    for entry in entries:
        key = f"{entry.fragment.name}:{entry.fragment.kind}:{','.join(map(str, entry.box.starts))}"
        assert key not in fields, f"two fragments of this rank write {key}"
        span = [offset, offset + entry.size]
        fields[key] = {"dtype": SAFETENSORS_NAMES[entry.fragment.dtype], "shape": entry.box.shape, "data_offsets": span}
        offset += entry.size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
