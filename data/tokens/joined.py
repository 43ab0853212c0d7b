"""Several token files as one stream, in their order: one numbering of tokens and of documents. K spans, D documents."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from .bulk import Spans
from .description import unwatched
from .document_search import Found
from .mapped_file import TokenFile


class JoinedTokens:
    """As a `TokenFile` of all of them; a document never goes on in the next file.

    Args:
        files: at least one.
    """

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self.files = list(files)
        self.prefix = files[0].prefix  # for messages about the whole
        self.dtype = np.result_type(*(file.dtype for file in files))
        self._tokens_before = np.array([0, *accumulate(file.num_tokens for file in files)], dtype=np.int64)
        self._documents_before = np.array([0, *accumulate(file.num_documents for file in files)], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        return int(self._tokens_before[-1])

    @property
    def num_documents(self) -> int:
        return int(self._documents_before[-1])

    @cached_property
    def document_starts(self) -> np.ndarray:
        """As `TokenFile.document_starts`."""
        starts = [file.document_starts[:-1] + before for file, before in zip(self.files, self._tokens_before.tolist(), strict=False)]
        return np.concatenate((*starts, self._tokens_before[-1:]))

    def read(self, start: int, count: int) -> np.ndarray:
        """A copy of tokens start .. start + count. Raises as `TokenFile.read`."""
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise IndexError(f"tokens {start} to {start + count} of {self.num_tokens} from {self.prefix} on")
        out_1W = np.empty((1, count), dtype=self.dtype)
        if count:
            zero = np.zeros(1, dtype=np.int64)
            self.gather(Spans(starts_K=zero + start, counts_K=zero + count, rows_K=zero, columns_K=zero), out_1W)
        return out_1W[0]

    def document(self, number: int) -> np.ndarray:
        """All tokens of one document. Raises as `TokenFile.document`."""
        file = self._file_of(self._documents_before, number)
        return self.files[file].document(number - int(self._documents_before[file]))

    def document_start(self, number: int) -> int:
        """Position of a document's first token."""
        if number == self.num_documents:
            return self.num_tokens
        file = self._file_of(self._documents_before, number)
        return self.files[file].document_start(number - int(self._documents_before[file])) + int(self._tokens_before[file])

    def document_at(self, position: int) -> int:
        """Number of the document that holds the token at `position`."""
        file = self._file_of(self._tokens_before, position)
        return self.files[file].document_at(position - int(self._tokens_before[file])) + int(self._documents_before[file])

    def origin(self, document: int) -> tuple[Path, int, int]:
        """As `TokenFile.origin`."""
        file = self._file_of(self._documents_before, document)
        return self.files[file].origin(document - int(self._documents_before[file]))

    def gather(self, spans: Spans, out_BW: np.ndarray, tick: Callable[[], None] = unwatched) -> None:
        """As `TokenFile.gather`."""
        for file, part, _ in self._by_file(spans):
            file.gather(part, out_BW, tick)

    def will_need(self, spans: Spans) -> None:
        """As `TokenFile.will_need`."""
        for file, part, _ in self._by_file(spans):
            file.will_need(part)

    def documents_within(self, spans: Spans) -> Found:
        """As `TokenFile.documents_within`."""
        parts: list[Found] = []
        for file, part, numbers_K in self._by_file(spans):
            found, number = file.documents_within(part), self.files.index(file)
            parts.append(Found(spans_D=numbers_K[found.spans_D], numbers_D=found.numbers_D + self._documents_before[number],
                               begins_D=found.begins_D + self._tokens_before[number]))
        spans_D, numbers_D, begins_D = (np.concatenate([getattr(part, name) for part in parts])
                                        for name in ("spans_D", "numbers_D", "begins_D"))
        order = np.lexsort((numbers_D, spans_D))
        return Found(spans_D=spans_D[order], numbers_D=numbers_D[order], begins_D=begins_D[order])

    def _by_file(self, spans: Spans) -> list[tuple[TokenFile, Spans, np.ndarray]]:
        """Of each file that spans reach into, those spans in its own positions, and their numbers."""
        first_K = self._files_of(spans.starts_K)
        last_K = self._files_of(spans.starts_K + spans.counts_K - 1)
        found = []
        for number in np.unique(np.concatenate((first_K, last_K, *self._between(first_K, last_K)))).tolist():
            numbers_K = np.flatnonzero((first_K <= number) & (number <= last_K))
            begin, end = self._tokens_before[number : number + 2].tolist()
            part = spans.chosen(numbers_K)
            starts_K = np.maximum(part.starts_K, begin)
            counts_K = np.minimum(part.starts_K + part.counts_K, end) - starts_K
            if not counts_K.any():
                continue  # an empty file between two others
            columns_K = part.columns_K + starts_K - part.starts_K
            found.append((self.files[number], replace(part, starts_K=starts_K - begin, counts_K=counts_K, columns_K=columns_K), numbers_K))
        return found

    @staticmethod
    def _between(first_K: np.ndarray, last_K: np.ndarray) -> list[np.ndarray]:
        """Files that lie wholly inside a span."""
        return [np.arange(first + 1, last) for first, last in zip(first_K, last_K, strict=True) if last - first > 1]

    def _files_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._tokens_before, positions, side="right") - 1

    @staticmethod
    def _file_of(before: np.ndarray, number: int) -> int:
        if not 0 <= number < int(before[-1]):
            raise IndexError(f"{number} of {int(before[-1])}")
        return int(np.searchsorted(before, number, side="right")) - 1


Tokens = TokenFile | JoinedTokens
