"""Writes what one rank holds: a safetensors file, hashed while it is written, and the list of what lies in it."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
import xxhash

from .dtypes import ITEM_SIZES, SAFETENSORS_NAMES
from .fragment import Fragment
from .manifest import BLOCK_BYTES, SavedFile, SavedSlice, SavedTensor
from .slices import Box, chunks, global_boxes, strides

CHUNK_BYTES = 16 * 2**20  # most bytes copied from a device at once
BUFFER_BYTES = 2**20  # gathers small slices into one write


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


def write_rank_file(path: Path, entries: list[Entry]) -> tuple[list[SavedTensor], SavedFile]:
    """Write and sync one safetensors file.

    Args:
        path: the new file.
        entries: its slices, in order.

    Returns:
        Its tensors (each with the slices that lie here), and its size and block checksums.
    """
    header = _header(entries)
    offset = len(header)
    slices: dict[tuple[str, str], list[SavedSlice]] = {}
    first: dict[tuple[str, str], Fragment] = {}
    with path.open("xb", buffering=BUFFER_BYTES) as file:
        sink = HashedFile(file)
        sink.write(header)
        for entry in entries:
            for piece in _bytes_of(entry.elements):
                sink.write(piece)
            key = entry.fragment.name, entry.fragment.kind
            first.setdefault(key, entry.fragment)
            slices.setdefault(key, []).append(SavedSlice(path.name, offset, entry.box))
            offset += entry.size
        file.flush()
        os.fsync(file.fileno())
    saved = sink.finish()
    assert saved.size == offset, f"{path} has {saved.size} bytes instead of {offset}"
    tensors = [SavedTensor(*key, first[key].dtype, tuple(first[key].shard.shape), tuple(parts)) for key, parts in slices.items()]
    return tensors, saved


def _header(entries: list[Entry]) -> bytes:
    """Length and JSON header of a safetensors file (github.com/huggingface/safetensors, "Format"), padded to 8 bytes."""
    fields: dict[str, object] = {}
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


def _bytes_of(elements: torch.Tensor) -> Iterator[memoryview]:
    """The elements in row-major order as host bytes, a bounded piece at a time."""
    shape = tuple(elements.shape)
    for box in chunks(shape, strides(shape), CHUNK_BYTES // elements.element_size()):
        piece = elements[tuple(slice(start, box.end(dim)) for dim, start in enumerate(box.starts))]
        yield piece.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data


class HashedFile:
    """Writes a file and takes the XXH3-128 of each of its blocks on the way.

    Args:
        file: open for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0
        self._hash = xxhash.xxh3_128()
        self._blocks: list[str] = []

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        rest = memoryview(content)
        self._file.write(rest)
        while rest:
            part = rest[: BLOCK_BYTES - self._size % BLOCK_BYTES]
            self._hash.update(part)
            self._size += len(part)
            rest = rest[len(part) :]
            if self._size % BLOCK_BYTES == 0:
                self._end_block()

    def finish(self) -> SavedFile:
        """Size and checksums of all that was written."""
        if self._size % BLOCK_BYTES:
            self._end_block()
        return SavedFile(self._size, tuple(self._blocks))

    def _end_block(self) -> None:
        self._blocks.append(self._hash.hexdigest())
        self._hash = xxhash.xxh3_128()
