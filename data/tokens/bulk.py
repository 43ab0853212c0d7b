"""Reads many spans of a `.bin` at once: by `pread`, so that a truncated file is an error and no signal, and no page is mapped.

Spans go in the order of their place in the file. What the page cache holds is copied at once; the rest is asked for all together, so
that the disk or the file server sees every request before the first one is waited for.
"""

import errno
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .description import unwatched
from .index_file import REBUILD

NO_WAIT_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # a file system that cannot say what is cached, as NFS


@dataclass(frozen=True, kw_only=True, eq=False)
class Spans:
    """Pieces of a stream of tokens, and where in an array of rows each belongs. K spans, all int64 (K,)."""

    starts_K: np.ndarray  # token position
    counts_K: np.ndarray  # tokens, at least 1
    rows_K: np.ndarray
    columns_K: np.ndarray  # of the first token

    def __len__(self) -> int:
        return len(self.starts_K)

    def chosen(self, which: np.ndarray) -> "Spans":
        """Some of them, by number or by a mask."""
        return Spans(starts_K=self.starts_K[which], counts_K=self.counts_K[which], rows_K=self.rows_K[which],
                     columns_K=self.columns_K[which])


@dataclass(frozen=True)
class _State:
    """What changes when a file is written or replaced under whoever has it open."""

    size: int
    mtime_ns: int


class BinReader:
    """An open `.bin`.

    Args:
        path: of the file.
        offset: bytes before the first token.
        dtype: of the tokens.

    Raises:
        DataError: it is missing or unreadable.
    """

    def __init__(self, path: Path, *, offset: int, dtype: np.dtype) -> None:
        self.path, self._offset, self._dtype = path, offset, dtype
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist", do="check the path; a token file is a pair .bin and .idx", file=path) from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", do="check the path and its permissions", file=path) from error
        weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        self._state = _State(found.st_size, found.st_mtime_ns)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead into windows that nobody asked for
        self._asks_cache = True

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._state.size

    def check(self) -> None:
        """One fstat: the file is still the one that was opened.

        Raises:
            DataError: it was truncated, written, replaced or deleted since.
        """
        found = os.fstat(self._descriptor)
        if found.st_size == self._state.size and found.st_mtime_ns == self._state.mtime_ns and found.st_nlink:
            return
        if found.st_size < self._state.size:
            raise self._truncated()
        what = "was written to" if found.st_nlink else "was replaced or deleted"
        raise DataError(f"{self.path} {what} while in use", do=REBUILD, file=self.path)

    def gather(self, spans: Spans, out_BW: np.ndarray, tick: Callable[[], None] = unwatched) -> None:
        """Copies spans to their rows.

        Args:
            spans: inside the file.
            out_BW: C-contiguous, of the file's dtype.
            tick: a sign of progress while the disk is waited for.

        Raises:
            DataError: the file was truncated, changed or replaced since it was opened, or cannot be read.
        """
        assert out_BW.dtype == self._dtype and out_BW.flags.c_contiguous, (out_BW.dtype, self._dtype)
        self.check()
        order = np.argsort(spans.starts_K)
        size = self._dtype.itemsize
        offsets = (spans.starts_K[order] * size + self._offset).tolist()
        begins = (spans.rows_K[order] * out_BW.shape[1] + spans.columns_K[order]) * size
        ends = (begins + spans.counts_K[order] * size).tolist()
        whole = out_BW.reshape(-1).data.cast("B")
        pieces = [(whole[begin:end], offset) for begin, end, offset in zip(begins.tolist(), ends, offsets, strict=True)]
        try:
            missing = self._from_cache(pieces) if self._asks_cache else pieces
            if missing:
                self._from_disk(missing, tick)
        except OSError as error:
            do = "check the disk or the file server"
            raise DataError(f"{self.path} cannot be read: {error.strerror}", do=do, file=self.path) from error

    def will_need(self, spans: Spans) -> None:
        """Asks the system to read spans, and waits for nothing."""
        for start, count in zip(spans.starts_K.tolist(), spans.counts_K.tolist(), strict=True):
            self._advise(start * self._dtype.itemsize + self._offset, count * self._dtype.itemsize)

    def _from_cache(self, pieces: list[tuple[memoryview, int]]) -> list[tuple[memoryview, int]]:
        """Copies what is in memory; returns the rest."""
        missing, descriptor, preadv, no_wait = [], self._descriptor, os.preadv, os.RWF_NOWAIT
        for piece in pieces:
            view, offset = piece
            try:
                if preadv(descriptor, [view], offset, no_wait) != len(view):
                    missing.append(piece)
            except BlockingIOError:
                missing.append(piece)
            except OSError as error:
                if error.errno not in NO_WAIT_UNKNOWN:
                    raise
                self._asks_cache = False
                return pieces
        return missing

    def _from_disk(self, pieces: list[tuple[memoryview, int]], tick: Callable[[], None]) -> None:
        if len(pieces) > 1:
            for view, offset in pieces:
                self._advise(offset, len(view))
        for view, offset in pieces:
            filled = 0
            while filled < len(view):
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if not count:
                    raise self._truncated()
                filled += count
            tick()

    def _advise(self, offset: int, count: int) -> None:
        os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def _truncated(self) -> DataError:
        return DataError(f"{self.path} was truncated while in use", do=REBUILD, file=self.path)
