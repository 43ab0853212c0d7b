"""Writes one file in blocks: while a block goes to the disk, a thread makes, hashes and checks the next. Pure: imports no torch."""

import ctypes
import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from ..errors import NonFiniteError
from .finite import FloatSpan, non_finite_count
from .manifest import BLOCK_BYTES, SavedFile
from .storage import patiently

# Blocks on their way to the disk at once. Writing back at once, and never far behind, keeps the disk busy from the first block on, leaves
# little for the fsync, and makes each block that is done a true sign of progress. Without it a save took up to three times as long.
BLOCKS_BEHIND = 4
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # linux/fs.h, SYNC_FILE_RANGE_*
_NOT_HERE = {errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP}

# Bytes [begin, end) of the file; good until the next call but one.
BlockSource = Callable[[int, int], memoryview]


def write_stream(path: Path, size: int, source: BlockSource, floats: Sequence[FloatSpan], tick: Callable[[], None]) -> SavedFile:
    """Write and sync one file.

    Args:
        path: the new file.
        size: bytes.
        source: gives its blocks in order; called in a thread.
        floats: where its floating-point elements lie, in file order.
        tick: told of each block that is written.

    Returns:
        Its size and block checksums.

    Raises:
        NonFiniteError: an element is NaN or infinite.
        OSError: the disk is full or fails.
    """
    hashes: list[str] = []

    def prepare(begin: int) -> memoryview:
        content = source(begin, min(begin + BLOCK_BYTES, size))
        require_finite(content, begin, floats)
        hashes.append(xxhash.xxh3_128_hexdigest(content))
        return content

    handle = patiently(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    try:
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(prepare, 0)
            for begin in range(0, size, BLOCK_BYTES):
                content = ahead.result()
                if begin + BLOCK_BYTES < size:
                    ahead = pool.submit(prepare, begin + BLOCK_BYTES)
                _write_all(handle, content)
                _write_behind(handle, begin)
                tick()
        os.fsync(handle)
    finally:
        os.close(handle)
    return SavedFile(size, tuple(hashes))


def require_finite(content: memoryview, begin: int, floats: Sequence[FloatSpan]) -> None:
    """Check the elements of a block.

    Args:
        content: of the file, from byte `begin` on; no element lies across its ends.
        begin: of the block.
        floats: where floating-point elements lie in the file.

    Raises:
        NonFiniteError: naming the tensor.
    """
    end = begin + len(content)
    for span in floats:
        low, high = max(span.begin, begin), min(span.end, end)
        if low >= high:
            continue
        wrong = non_finite_count(content[low - begin : high - begin], span.dtype)
        if wrong:
            raise NonFiniteError(
                f"{span.label} has {wrong} elements that are not finite: it is not saved",
                do="go on from the last checkpoint with a lower optimizer.learning_rate",
            )


def _write_all(handle: int, content: memoryview) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _write_behind(handle: int, begin: int) -> None:
    """Starts to bring the block at `begin` to the disk, and waits for the one that lies a few blocks back."""
    _sync_range(handle, begin, _WRITE)
    back = begin - BLOCKS_BEHIND * BLOCK_BYTES
    if back >= 0:
        _sync_range(handle, back, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)


def _sync_range(handle: int, begin: int, flags: int) -> None:
    """Linux's sync_file_range; where the file system has none, fsync does it all."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "sync_file_range"):
        return
    if libc.sync_file_range(handle, ctypes.c_int64(begin), ctypes.c_int64(BLOCK_BYTES), ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        if number not in _NOT_HERE:
            raise OSError(number, os.strerror(number))
