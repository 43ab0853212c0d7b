"""One token file: its tokens and document boundaries without loading them."""

import os
from collections.abc import Callable
from functools import cached_property
from mmap import mmap
from pathlib import Path

import numpy as np

from ..errors import DataError
from .bulk import BinReader, Spans
from .description import unwatched
from .document_search import DocumentSearch, Found
from .index_file import REBUILD, IndexFile, bin_size_error, map_file, open_index


class TokenFile:
    """A Megatron `.bin/.idx`. Opening it checks what can be checked without reading it; `open_corpus` verifies the rest.

    Args:
        prefix: path without `.bin`.
        idx_path: where the index lies, if not beside the `.bin`.
        offset: bytes of a header before the first token, which Megatron's files do not have.

    Raises:
        DataError: a file is missing, is no Megatron file, or the sizes do not fit.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, idx_path: Path | None = None, offset: int = 0) -> None:
        self.prefix = Path(prefix)
        self._bin_path = self.prefix.with_name(f"{self.prefix.name}.bin")
        idx_path = idx_path or self.prefix.with_name(f"{self.prefix.name}.idx")
        self.offset = offset
        self._idx_map = map_file(idx_path)
        self._index = open_index(idx_path, self._idx_map)
        self._reader = BinReader(self._bin_path, offset=offset, dtype=self._index.dtype)
        if self._reader.size != self._index.bin_size + offset:
            raise bin_size_error(self._index, bin_size=self._reader.size, expected=self._index.bin_size + offset)
        self._search = DocumentSearch(self._index)

    @property
    def dtype(self) -> np.dtype:
        return self._index.dtype

    @property
    def bin_path(self) -> Path:
        return self._bin_path

    @property
    def index(self) -> IndexFile:
        return self._index

    @property
    def descriptor(self) -> int:
        """Of the open `.bin`."""
        return self._reader.descriptor

    @property
    def num_tokens(self) -> int:
        return self._index.bin_size // self.dtype.itemsize

    @property
    def num_documents(self) -> int:
        return self._index.num_documents

    @cached_property
    def _tokens(self) -> np.ndarray:
        return np.frombuffer(map_file(self._bin_path), self.dtype, offset=self.offset)

    @cached_property
    def document_starts(self) -> np.ndarray:
        """int64 (num_documents + 1,): position of each document's first token, and the end. Eight bytes a document, made at first use."""
        ends = np.append(self._index.pointers, self._index.bin_size)
        return ends[self._index.document_indices] // self.dtype.itemsize

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start .. start + count, as a read-only view of the file; copy it before keeping it.

        Raises:
            IndexError: outside the file.
            DataError: the file has been truncated since it was opened.
        """
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise IndexError(f"tokens {start} to {start + count} of {self.num_tokens} in {self._bin_path}")
        self._reader.check()
        return self._tokens[start : start + count]

    def gather(self, spans: Spans, out_BW: np.ndarray, tick: Callable[[], None] = unwatched) -> None:
        """Copies many spans of tokens to their rows, in the order of the file.

        Args:
            spans: inside the file.
            out_BW: C-contiguous; where it is not of the file's dtype, the tokens are converted.
            tick: a sign of progress while the disk is waited for.

        Raises:
            DataError: the file was truncated, written or replaced since it was opened.
        """
        if out_BW.dtype == self.dtype:
            self._reader.gather(spans, out_BW, tick)
            return
        own = np.empty((len(spans), int(spans.counts_K.max())), dtype=self.dtype)
        numbers_K, none_K = np.arange(len(spans)), np.zeros(len(spans), dtype=np.int64)
        self._reader.gather(Spans(starts_K=spans.starts_K, counts_K=spans.counts_K, rows_K=numbers_K, columns_K=none_K), own, tick)
        for number, (row, column, count) in enumerate(zip(spans.rows_K, spans.columns_K, spans.counts_K, strict=True)):
            out_BW[row, column : column + count] = own[number, :count]

    def will_need(self, spans: Spans) -> None:
        """Asks the system to read spans ahead, and waits for nothing."""
        self._reader.will_need(spans)

    def documents_within(self, spans: Spans) -> Found:
        """The documents of many spans, read from the mapped index.

        Raises:
            DataError: the index was truncated since it was opened.
        """
        _check_still_there(self._index.path, self._idx_map)
        return self._search.within(spans.starts_K, spans.counts_K)

    def document(self, number: int) -> np.ndarray:
        """All tokens of one document, as `read`."""
        _check_still_there(self._index.path, self._idx_map)
        start, end = self.document_start(number), self.document_start(number + 1)
        return self.read(start, end - start)

    def document_start(self, number: int) -> int:
        """Position of a document's first token, without making `document_starts`."""
        return self._index.document_start(number)

    def origin(self, document: int) -> tuple[Path, int, int]:
        """For people: the file of a document, its number in there, and the byte where it begins."""
        return self._bin_path, document, self.document_start(document) * self.dtype.itemsize + self.offset

    def document_at(self, position: int) -> int:
        """Number of the document that holds the token at `position`."""
        return self._index.document_at(position)

    def documents_in(self, start: int, count: int) -> tuple[list[int], list[int]]:
        """Documents that have tokens in start .. start + count (count >= 1), read from the mapped index.

        Returns:
            Their numbers and the positions where they begin; the first is taken to begin at `start`.

        Raises:
            DataError: the files have been truncated since they were opened.
        """
        _check_still_there(self._index.path, self._idx_map)
        first = self.document_at(start)
        numbers, begins = [first], [start]
        for number in range(first + 1, self.num_documents):
            begin = self.document_start(number)
            if begin >= start + count:
                break
            if begin == begins[-1]:
                numbers[-1] = number  # the one before was empty
            else:
                numbers.append(number)
                begins.append(begin)
        return numbers, begins


def _check_still_there(path: Path, mapped: mmap | bytes) -> None:
    """Touching a mapped page beyond the end of a truncated file kills the process (SIGBUS) without a word."""
    if isinstance(mapped, mmap) and mapped.size() < len(mapped):  # one fstat, 0.3 us
        raise DataError(f"{path} was truncated while in use", do=REBUILD, file=path)
