"""Finds the documents of many spans at once in a mapped `.idx`, without a Python object for any of them. K spans, D documents."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from .index_file import IndexFile


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Documents that have tokens in spans, span after span."""

    spans_D: np.ndarray  # int64, number of the span
    numbers_D: np.ndarray  # int64, number of the document
    begins_D: np.ndarray  # int64, position of its first token in the span


class DocumentSearch:
    """Bulk bisection in an index whose entries were checked.

    Args:
        index: mapped.
    """

    def __init__(self, index: IndexFile) -> None:
        self._pointers, self._document_indices = index.pointers, index.document_indices
        self._size = index.dtype.itemsize
        # documents after the last sequence are empty, and their start has no pointer; everything before has one
        self._last = bisect_left(index.document_index, len(index.pointers)) - 1

    def starts(self, numbers_D: np.ndarray) -> np.ndarray:
        """Token positions (D,) where documents begin; none may be empty at the end of the file."""
        return self._pointers[self._document_indices[numbers_D]] // self._size

    def at(self, positions_K: np.ndarray) -> np.ndarray:
        """The documents that hold the tokens at these positions, all bisections side by side in powers of two."""
        bytes_K = positions_K * self._size
        found_K = np.zeros(len(positions_K), dtype=np.int64)
        step = 1 << max(self._last.bit_length() - 1, 0)
        while step:
            further_K = np.minimum(found_K + step, self._last)
            np.copyto(found_K, further_K, where=self._pointers[self._document_indices[further_K]] <= bytes_K)
            step >>= 1
        return found_K

    def within(self, starts_K: np.ndarray, counts_K: np.ndarray) -> Found:
        """All documents of spans; the first of each is taken to begin with it, and empty ones are left out.

        Args:
            starts_K: token positions.
            counts_K: tokens, at least 1.
        """
        ends_2K = self.at(np.concatenate((starts_K, starts_K + counts_K - 1)))
        first_K, last_K = ends_2K[: len(starts_K)], ends_2K[len(starts_K) :]
        many_K = last_K - first_K + 1
        spans_D = np.repeat(np.arange(len(starts_K)), many_K)
        before_K = np.cumsum(many_K) - many_K
        numbers_D = np.arange(len(spans_D)) + (first_K - before_K)[spans_D]
        begins_D = self.starts(numbers_D)
        begins_D[before_K] = starts_K
        full_D = np.empty(len(spans_D), dtype=bool)  # an empty one begins where the next one does; the last of a span has a token
        np.not_equal(begins_D[1:], begins_D[:-1], out=full_D[:-1])
        full_D[before_K + many_K - 1] = True
        if not full_D.all():
            spans_D, numbers_D, begins_D = spans_D[full_D], numbers_D[full_D], begins_D[full_D]
        return Found(spans_D=spans_D, numbers_D=numbers_D, begins_D=begins_D)
