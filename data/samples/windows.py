"""Windows out of token files, a whole batch at once. B samples, S sequence, W = S + 1 tokens of a window, K spans, D documents."""

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DataError
from ..tokens.bulk import Spans
from ..tokens.description import unwatched
from ..tokens.joined import Tokens
from .batch import Batch


class Windows:
    """Cuts windows out of token files and describes their documents.

    Args:
        sequence_length: S.
        document_mask: number the documents inside a window and let positions restart with them.
        vocab_size: check every id against it; 0: no check.
    """

    def __init__(self, *, sequence_length: int, document_mask: bool, vocab_size: int) -> None:
        self.sequence_length = sequence_length
        self._document_mask = document_mask
        self._vocab_size = vocab_size
        self.reads_ids = True  # else tokens and targets are 0, and only the index is looked at

    def batch(self, files: Sequence[Tokens], *, samples_B: np.ndarray, sources_B: np.ndarray, starts_B: np.ndarray,
              wrap: bool = True, tick: Callable[[], None] = unwatched) -> Batch:
        """One window for each sample: one array of all ids, of which tokens and targets are views.

        Args:
            files: all sources.
            samples_B, sources_B, starts_B: int64: number, source and position of the first token.
            wrap: at the end of a file go on at its beginning; otherwise the rest is padding, which is a segment of its own without loss.
            tick: a sign of progress while the disk is waited for.

        Raises:
            DataError: an id does not fit the vocabulary; a file was truncated, written or replaced.
        """
        length, size = self.sequence_length, len(samples_B)
        present = np.unique(sources_B).tolist()
        dtype = np.result_type(*(files[source].dtype for source in present))
        ids_BW = (np.empty if wrap and self.reads_ids else np.zeros)((size, length + 1), dtype=dtype)
        rows, numbers, places = [], [], []
        filled_B = np.full(size, length + 1)
        for source in present:
            rows_K = np.flatnonzero(sources_B == source)
            spans = self._spans(starts_B[rows_K], rows_K, files[source].num_tokens, wrap=wrap)
            if self.reads_ids:
                files[source].gather(spans, ids_BW, tick)
            if not wrap:
                filled_B[rows_K] = spans.counts_K
            inputs = _of_inputs(spans, length)
            found = files[source].documents_within(inputs)
            rows.append(inputs.rows_K[found.spans_D])
            numbers.append(found.numbers_D)
            places.append(found.begins_D - (inputs.starts_K - inputs.columns_K)[found.spans_D])
        if self._vocab_size and self.reads_ids:
            self._check_ids(files, ids_BW, sources_B, starts_B)
        order = _order(rows, places) if len(rows) > 1 or len(spans) > size else slice(None)
        rows_D, numbers_D, places_D = (np.concatenate(parts)[order] for parts in (rows, numbers, places))
        documents_BS, positions_BS = self._segments(rows_D, places_D, filled_B)
        loss_mask_BS = np.ones((size, length), dtype=np.float32)
        for row in np.flatnonzero(filled_B <= length):
            loss_mask_BS[row, filled_B[row] - 1 :] = 0
        return Batch(
            tokens_BS=ids_BW[:, :-1], targets_BS=ids_BW[:, 1:], documents_BS=documents_BS, positions_BS=positions_BS,
            loss_mask_BS=loss_mask_BS, samples_B=samples_B, sources_B=sources_B, starts_B=starts_B,
            num_documents_B=np.bincount(rows_D, minlength=size), documents_D=numbers_D,
        )

    def _spans(self, starts_B: np.ndarray, rows_B: np.ndarray, num_tokens: int, *, wrap: bool) -> Spans:
        """One span for each window, and a second one for those that go on at the beginning."""
        wanted = self.sequence_length + 1
        counts_B = np.minimum(wanted, num_tokens - starts_B)
        zeros_B = np.zeros(len(starts_B), dtype=np.int64)
        short = np.flatnonzero(counts_B < wanted) if wrap else ()
        if not len(short):
            return Spans(starts_K=starts_B, counts_K=counts_B, rows_K=rows_B, columns_K=zeros_B)
        return Spans(
            starts_K=np.concatenate((starts_B, zeros_B[short])), counts_K=np.concatenate((counts_B, wanted - counts_B[short])),
            rows_K=np.concatenate((rows_B, rows_B[short])), columns_K=np.concatenate((zeros_B, counts_B[short])),
        )

    def _segments(self, rows_D: np.ndarray, places_D: np.ndarray, filled_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and positions of windows whose segments begin at (row, place), in that order."""
        length, size = self.sequence_length, len(filled_B)
        if not self._document_mask:
            return np.zeros((size, length), dtype=np.int32), np.tile(np.arange(length, dtype=np.int32), (size, 1))
        begins_D = rows_D * length + places_D
        padded = np.flatnonzero(filled_B < length)
        if len(padded):
            begins_D = np.sort(np.concatenate((begins_D, padded * length + filled_B[padded])))
            rows_D = begins_D // length
        lengths_D = np.diff(begins_D, append=size * length)
        firsts_B = np.searchsorted(rows_D, np.arange(size))  # the segment that opens each row
        segments_D = (np.arange(len(rows_D)) - firsts_B[rows_D]).astype(np.int32)
        documents_BS = np.repeat(segments_D, lengths_D).reshape(size, length)
        positions = np.arange(size * length, dtype=np.int32)
        positions -= np.repeat(begins_D.astype(np.int32), lengths_D)
        return documents_BS, positions.reshape(size, length)

    def _check_ids(self, files: Sequence[Tokens], ids_BW: np.ndarray, sources_B: np.ndarray, starts_B: np.ndarray) -> None:
        if ids_BW.max() < self._vocab_size and (ids_BW.dtype.kind == "u" or ids_BW.min() >= 0):
            return
        row, inside = (int(each[0]) for each in np.nonzero((ids_BW >= self._vocab_size) | (ids_BW < 0)))
        file = files[int(sources_B[row])]
        position = (int(starts_B[row]) + inside) % file.num_tokens
        document = file.document_at(position)
        path, number, _ = file.origin(document)
        where = f"document {number}, offset {position - file.document_start(document)}"
        message = f"{path} holds the id {ids_BW[row, inside]} ({where}), but model.vocab_size={self._vocab_size}"
        raise DataError(message, do="raise model.vocab_size, or prepare the corpus with the model's tokenizer", file=path)


def _of_inputs(spans: Spans, length: int) -> Spans:
    """Spans without the last target of each window."""
    counts_K = np.minimum(spans.counts_K, length - spans.columns_K)
    inputs = Spans(starts_K=spans.starts_K, counts_K=counts_K, rows_K=spans.rows_K, columns_K=spans.columns_K)
    return inputs if counts_K.all() else inputs.chosen(counts_K > 0)


def _order(rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> np.ndarray:
    """Documents of several sources, or of windows that wrap, in the order of their samples."""
    return np.lexsort((np.concatenate(places), np.concatenate(rows)))
