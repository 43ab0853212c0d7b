"""Reads the files of a checkpoint in blocks that are verified before a byte of them is used."""

import os
from collections import OrderedDict
from pathlib import Path

import xxhash

from .manifest import BLOCK_BYTES, SavedFile
from .storage import open_regular
from .strict_json import damaged

KEPT_BLOCKS = 3  # a piece of a slice spans two; with one more, reading in file order checks each block once


class BlockReader:
    """One data file, read with `pread` and checked block by block.

    Args:
        path: the file.
        saved: the size and checksums it must have.

    Raises:
        DamagedError: missing, a link, or of another size.
    """

    def __init__(self, path: Path, saved: SavedFile) -> None:
        self._path = path
        self._saved = saved
        self._kept: OrderedDict[int, bytearray] = OrderedDict()
        self._handle = open_regular(path)
        self.bytes_read = 0
        size = os.fstat(self._handle).st_size
        if size != saved.size:
            self.close()
            raise damaged(path, f"it has {size} bytes instead of {saved.size}")

    def close(self) -> None:
        """Close the file and forget its blocks."""
        os.close(self._handle)
        self._kept.clear()

    def read(self, begin: int, end: int) -> memoryview:
        """Verified bytes [begin, end) of the file; writable, but good only until the next call."""
        first, last = begin // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        if first == last:
            start = first * BLOCK_BYTES
            return memoryview(self.block(first))[begin - start : end - start]
        joined = bytearray(end - begin)
        for index in range(first, last + 1):
            start = index * BLOCK_BYTES
            low, high = max(begin, start), min(end, start + BLOCK_BYTES)
            joined[low - begin : high - begin] = memoryview(self.block(index))[low - start : high - start]
        return memoryview(joined)

    def block(self, index: int) -> bytearray:
        """One verified block.

        Raises:
            DamagedError: naming the file and the block.
        """
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        start = index * BLOCK_BYTES
        size = min(BLOCK_BYTES, self._saved.size - start)
        content = self._room(size)
        self._fill(content, start)
        if xxhash.xxh3_128_hexdigest(content) != self._saved.blocks[index]:
            raise damaged(self._path, f"block {index} (bytes {start} to {start + len(content)}) fails its checksum")
        self._kept[index] = content
        return content

    def _room(self, size: int) -> bytearray:
        """The oldest block's memory where it fits: new memory would cost more than reading into it."""
        oldest = self._kept.popitem(last=False)[1] if len(self._kept) == KEPT_BLOCKS else b""
        return oldest if isinstance(oldest, bytearray) and len(oldest) == size else bytearray(size)

    def _fill(self, content: bytearray, start: int) -> None:
        rest = memoryview(content)
        while rest:
            try:
                count = os.preadv(self._handle, [rest], start)
            except OSError as error:
                raise damaged(self._path, f"it cannot be read at byte {start}: {error.strerror}") from error
            if count == 0:
                raise damaged(self._path, f"it ends at byte {start} instead of {self._saved.size}")
            self.bytes_read += count
            rest, start = rest[count:], start + count


def verify_file(path: Path, saved: SavedFile) -> None:
    """Read a whole file and check every block.

    Raises:
        DamagedError: naming the file and what is wrong with it.
    """
    reader = BlockReader(path, saved)
    try:
        for index in range(len(saved.blocks)):
            reader.block(index)
    finally:
        reader.close()
