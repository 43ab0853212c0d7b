"""Samples out of token files: windows in training order, or all of a validation file. S sequence."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..order.permutation import window_start
from ..order.pieces import cut_into_pieces
from ..order.stages import Stage, Stages
from ..tokens.token_file import TokenFile
from .batch import Sample


class Dataset(Protocol):
    """Anything that makes a sample from its number, the same one every time, in any thread."""

    def sample(self, index: int) -> Sample: ...


class TrainingSet:
    """An endless, shuffled mixture of token files; sample i is a pure function of (seed, i).

    Args:
        sources: token files with their weights.
        sequence_length: S.
        seed: of the order.
        document_mask: number the documents inside a window and let positions restart with them.
        vocab_size: check every id against it; 0: no check.
        stages: mixtures that follow one another, and the pieces that windows are cut into (only under a document mask); empty: the sources'
            own weights throughout, and whole windows.

    Raises:
        DataError: a token file has no window of sequence_length + 1 tokens, or the weights are impossible.
    """

    def __init__(
        self, sources: Sequence[tuple[TokenFile, float]], *, sequence_length: int, seed: int, document_mask: bool, vocab_size: int = 0,
        stages: Sequence[Stage] = (),
    ) -> None:
        self.files = [file for file, _ in sources]
        self.order = Stages(stages or [Stage(0, tuple(weight for _, weight in sources), sequence_length)])
        self._seed = seed
        self._windows = _Windows(sequence_length=sequence_length, document_mask=document_mask, vocab_size=vocab_size)
        for number, file in enumerate(self.files):
            if any(stage.weights[number] > 0 for stage in self.order.stages) and file.num_tokens <= sequence_length:
                raise _too_short(file.prefix, file.num_tokens, sequence_length + 1)

    def sample(self, index: int) -> Sample:
        """Global sample `index` of the run, from 0 and without end.

        Raises:
            DataError: an id does not fit the vocabulary, or a file was truncated.
        """
        source, number = map(int, self.order.locate(np.array(index)))
        file, length = self.files[source], self._windows.sequence_length
        start = window_start(number, seed=self._seed, num_tokens=file.num_tokens, sequence_length=length, stream=source)
        found = self._windows.sample(file, start, index=index, source=source)
        piece = int(self.order.piece_lengths(np.array(index)))
        if piece < length:
            documents_BS, positions_BS = cut_into_pieces(found.positions_S[None], np.array([piece]))
            found.documents_S, found.positions_S = documents_BS[0], positions_BS[0]
        return found


class ValidationSet:
    """All of a token file in order: every token but the very first, which nothing precedes, is a target exactly once.

    The last window is padded; its padding is a document of its own, with loss_mask 0.

    Args:
        token_file: at least two tokens.
        sequence_length: S.
        document_mask, vocab_size: as `TrainingSet`.

    Raises:
        DataError: fewer than two tokens.
    """

    def __init__(self, token_file: TokenFile, *, sequence_length: int, document_mask: bool, vocab_size: int = 0) -> None:
        if token_file.num_tokens < 2:
            raise _too_short(token_file.prefix, token_file.num_tokens, 2)
        self.file = token_file
        self._windows = _Windows(sequence_length=sequence_length, document_mask=document_mask, vocab_size=vocab_size)

    def __len__(self) -> int:
        return math.ceil((self.file.num_tokens - 1) / self._windows.sequence_length)

    def sample(self, index: int) -> Sample:
        """Window `index` of the file.

        Raises:
            IndexError: index outside 0 .. len - 1.
            DataError: as `TrainingSet.sample`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._windows.sample(self.file, index * self._windows.sequence_length, index=index, source=0, wrap=False)


class _Windows:
    """Cuts one window out of a token file and describes its documents."""

    def __init__(self, *, sequence_length: int, document_mask: bool, vocab_size: int) -> None:
        self.sequence_length = sequence_length
        self._document_mask = document_mask
        self._vocab_size = vocab_size
        self._count_S = np.arange(sequence_length)
        self._ones_S = np.ones(sequence_length, dtype=np.float32)
        for shared in (self._count_S, self._ones_S):
            shared.flags.writeable = False

    def sample(self, file: TokenFile, start: int, *, index: int, source: int, wrap: bool = True) -> Sample:
        length = self.sequence_length
        spans = [(start, min(length + 1, file.num_tokens - start))]
        if wrap and spans[0][1] <= length:
            spans.append((0, length + 1 - spans[0][1]))
        window, filled = np.zeros(length + 1, dtype=np.int64), 0
        for first, count in spans:
            window[filled : filled + count] = file.read(first, count)
            filled += count
        if self._vocab_size:
            self._check_ids(file, window, start)
        document_ids, begins = _documents(file, spans, length)
        if filled < length:
            begins.append(filled)
        documents_S, positions_S = self._segments(begins)
        loss_mask_S = self._ones_S
        if filled <= length:
            loss_mask_S = loss_mask_S.copy()
            loss_mask_S[filled - 1 :] = 0
        return Sample(
            tokens_S=window[:-1],
            targets_S=window[1:],
            documents_S=documents_S,
            positions_S=positions_S,
            loss_mask_S=loss_mask_S,
            index=index,
            source=source,
            document_ids=tuple(document_ids),
        )

    def _segments(self, begins: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and positions of a window whose segments begin there."""
        if not self._document_mask:
            return np.zeros(self.sequence_length, dtype=np.int32), self._count_S
        edges = np.array([*begins, self.sequence_length])
        lengths = edges[1:] - edges[:-1]
        documents_S = np.repeat(np.arange(len(begins), dtype=np.int32), lengths)
        return documents_S, self._count_S - np.repeat(edges[:-1], lengths)

    def _check_ids(self, file: TokenFile, window: np.ndarray, start: int) -> None:
        if window.view(np.uint64).max() < self._vocab_size:  # a negative id becomes a huge one
            return
        inside = int(np.flatnonzero((window >= self._vocab_size) | (window < 0))[0])
        position = (start + inside) % file.num_tokens
        document = file.document_at(position)
        where = f"document {document}, offset {position - int(file.document_start(document))}"
        message = f"{file.prefix}.bin holds the id {window[inside]} ({where}), but model.vocab_size={self._vocab_size}"
        raise DataError(message, do="raise model.vocab_size, or prepare the corpus with the model's tokenizer", file=f"{file.prefix}.bin")


def _documents(file: TokenFile, spans: list[tuple[int, int]], length: int) -> tuple[list[int], list[int]]:
    """Numbers of the documents of the window's inputs, and where in the window each begins."""
    numbers: list[int] = []
    begins: list[int] = []
    filled = 0
    for first, count in spans:
        if filled < length:  # else only the last target lies in this span
            found, at = file.documents_in(first, min(count, length - filled))
            numbers += found
            begins += [begin - first + filled for begin in at]
        filled += count
    return numbers, begins


def _too_short(prefix: Path, tokens: int, needed: int) -> DataError:
    message = f"{prefix} holds {tokens} tokens, at least {needed} are needed"
    return DataError(message, do="prepare more text, or lower model.sequence_length", file=f"{prefix}.bin")
