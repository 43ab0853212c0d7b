"""Reads the files of a checkpoint block by block, several at once; each block is verified before a byte of it is used.

preadv, XXH3 and torch's copies release Python's lock, so a few threads overlap reading, checking and copying.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash

from .manifest import BLOCK_BYTES, SavedFile
from .storage import open_regular
from .strict_json import DamagedError, damaged

READERS = 3  # threads, and blocks in memory: one waits for the disk while others are checked and copied
WAITING = 3 * READERS  # blocks that are asked for ahead of the oldest unfinished one


class Block(NamedTuple):
    """One block of 16 MiB (the last of a file may be shorter); sorts in file order."""

    file: str
    number: int


class BlockReader:
    """One data file, read with `preadv` and checked block by block; several threads may read at once.

    Args:
        path: the file.
        saved: the size and checksums it must have.

    Raises:
        DamagedError: missing, a link, or of another size.
    """

    def __init__(self, path: Path, saved: SavedFile) -> None:
        self._path = path
        self._saved = saved
        self._handle = open_regular(path)
        size = os.fstat(self._handle).st_size
        if size != saved.size:
            self.close()
            raise damaged(path, f"it has {size} bytes instead of {saved.size}")

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def block(self, index: int, room: bytearray) -> memoryview:
        """One verified block.

        Args:
            index: which.
            room: at least as long as the block; the result lies in it.

        Raises:
            DamagedError: naming the file and the block.
        """
        start = index * BLOCK_BYTES
        content = memoryview(room)[: min(BLOCK_BYTES, self._saved.size - start)]
        self._fill(content, start)
        if xxhash.xxh3_128_hexdigest(content) != self._saved.blocks[index]:
            raise damaged(self._path, f"block {index} (bytes {start} to {start + len(content)}) fails its checksum")
        return content

    def _fill(self, content: memoryview, start: int) -> None:
        rest = content
        while rest:
            try:
                count = os.preadv(self._handle, [rest], start)
            except OSError as error:
                raise damaged(self._path, f"it cannot be read at byte {start}: {error.strerror}") from error
            if count == 0:
                raise damaged(self._path, f"it ends at byte {start} instead of {self._saved.size}")
            rest, start = rest[count:], start + count


def nothing(*_: object) -> None:
    """What happens where nobody wants to be told."""


def raise_it(error: DamagedError) -> None:
    """The first damage ends the reading."""
    raise error


class BlockReaders:
    """A few threads that read, check and use the blocks of one folder's files.

    Args:
        folder: it lies here.
        files: size and checksums of each.
        use: called in one of the threads with each verified block; the memory is good only during the call.
    """

    def __init__(self, folder: Path, files: Mapping[str, SavedFile], use: Callable[[Block, memoryview], None] = nothing) -> None:
        self._folder, self._files, self._use = folder, files, use
        self._mine = threading.local()

    def run(self, wanted: Iterable[Block], *, tick: Callable[[int], None] = nothing,
            on_damage: Callable[[DamagedError], None] = raise_it) -> int:
        """Read blocks.

        Args:
            wanted: which, in file order.
            tick: called in the caller's thread after each block, with its bytes.
            on_damage: called in the caller's thread, in file order; raises to end the reading, which then uses no further block.

        Returns:
            Bytes that were read and verified.
        """
        waiting: deque[tuple[Future[int], BlockReader | None]] = deque()

        def collect() -> int:
            """The oldest block's bytes; with the last block of a file, the file is closed."""
            future, done = waiting.popleft()
            count = 0
            try:
                count = future.result()
            except DamagedError as error:
                on_damage(error)
            if done is not None:
                done.close()
            tick(count)
            return count

        # A forked process replaces torch's pool at its first use: several threads at once would find none ("Invalid thread pool").
        torch.set_num_threads(torch.get_num_threads())
        count = 0
        with ExitStack() as files, ThreadPoolExecutor(READERS, thread_name_prefix="blocks") as pool:
            try:
                for name, group in groupby(wanted, key=lambda block: block.file):
                    blocks = list(group)
                    reader = self._open(name, on_damage)
                    if reader is None:
                        continue
                    files.callback(reader.close)
                    for block in blocks:
                        if len(waiting) == WAITING:
                            count += collect()
                        waiting.append((pool.submit(self._one, reader, block), reader if block is blocks[-1] else None))
                while waiting:
                    count += collect()
            finally:
                for future, _ in waiting:
                    future.cancel()
        return count

    def _open(self, name: str, on_damage: Callable[[DamagedError], None]) -> BlockReader | None:
        try:
            return BlockReader(self._folder / name, self._files[name])
        except DamagedError as error:
            on_damage(error)
            return None

    def _one(self, reader: BlockReader, block: Block) -> int:
        content = reader.block(block.number, self._room())
        self._use(block, content)
        return len(content)

    def _room(self) -> bytearray:
        """This thread's memory for a block, made once: new memory would cost more than reading into it."""
        if not hasattr(self._mine, "room"):
            self._mine.room = bytearray(min(BLOCK_BYTES, max(file.size for file in self._files.values())))
        room = self._mine.room
        assert isinstance(room, bytearray)
        return room


def blocks_of(files: Mapping[str, SavedFile]) -> list[Block]:
    """Every block of some files, in file order."""
    return [Block(name, index) for name in sorted(files) for index in range(len(files[name].blocks))]


def verify_file(path: Path, saved: SavedFile, *, tick: Callable[[int], None] = nothing) -> None:
    """Read a whole file and check every block.

    Args:
        path, saved: the file, and what it must be.
        tick: called after each block with its bytes.

    Raises:
        DamagedError: naming the file and what is wrong with it.
    """
    files = {path.name: saved}
    BlockReaders(path.parent, files).run(blocks_of(files), tick=tick)
