"""Samples out of token files: windows in training order, or all of a validation file. B samples, S sequence."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..objectives.objective import Objective, apply
from ..order.permutation import window_starts
from ..order.pieces import cut_into_pieces
from ..order.stages import Stage, Stages
from ..tokens.description import unwatched
from ..tokens.joined import Tokens
from .batch import Batch, Sample
from .windows import Windows


class Dataset(Protocol):
    """Anything that makes samples from their numbers, the same ones every time, in any thread.

    `tick` is a sign of progress that is given while the disk is waited for.
    """

    def batch(self, indices: Sequence[int], tick: Callable[[], None] = unwatched) -> Batch: ...


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
        objective: what becomes of each sample after it was read; None: each next token is predicted.

    Raises:
        DataError: a token file has no window of sequence_length + 1 tokens, or the weights are impossible.
    """

    def __init__(
        self, sources: Sequence[tuple[Tokens, float]], *, sequence_length: int, seed: int, document_mask: bool, vocab_size: int = 0,
        stages: Sequence[Stage] = (), objective: Objective | None = None,
    ) -> None:
        self.files = [file for file, _ in sources]
        self.order = Stages(stages or [Stage(0, tuple(weight for _, weight in sources), sequence_length)])
        self._seed, self._objective, self._document_mask = seed, objective, document_mask
        numbered = document_mask or objective is not None  # an objective has to see the documents, also where attention does not
        self._windows = Windows(sequence_length=sequence_length, document_mask=numbered, vocab_size=vocab_size)
        for number, file in enumerate(self.files):
            if any(stage.weights[number] > 0 for stage in self.order.stages) and file.num_tokens <= sequence_length:
                raise _too_short(file.prefix, file.num_tokens, sequence_length + 1)

    def leave_out_ids(self) -> None:
        """From now on tokens and targets are 0: for ranks in the middle of a pipeline, which need documents and positions alone."""
        self._windows.reads_ids = self._objective is not None  # which tokens count in the loss, which these ranks have to know, it says

    def sample(self, index: int) -> Sample:
        """Global sample `index` of the run, from 0 and without end.

        Raises:
            DataError: an id does not fit the vocabulary, or a file was truncated.
        """
        return self.batch([index]).sample(0)

    def batch(self, indices: Sequence[int], tick: Callable[[], None] = unwatched) -> Batch:
        """Global samples of the run, in the given order, read in the order of the files.

        Args:
            indices: numbers, from 0 and without end; at least one.
            tick: a sign of progress while the disk is waited for.

        Raises:
            DataError: an id does not fit the vocabulary; a file was truncated, written or replaced.
        """
        samples_B = np.array(indices, dtype=np.int64)
        sources_B, starts_B = self.places(samples_B)
        found = self._windows.batch(self.files, samples_B=samples_B, sources_B=sources_B, starts_B=starts_B, tick=tick)
        pieces_B = self.order.piece_lengths(samples_B)
        if int(pieces_B.min()) < self._windows.sequence_length:
            documents_BS, positions_BS = cut_into_pieces(found.positions_BS, pieces_B)
            found = replace(found, documents_BS=documents_BS, positions_BS=positions_BS)
        return apply(self._objective, found, seed=self._seed, document_mask=self._document_mask)

    def places(self, samples_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where samples lie: sources and positions of their first tokens, int64 (B,); reads nothing."""
        sources_B, numbers_B = self.order.locate(samples_B)
        starts_B = np.empty_like(samples_B)
        for source in np.unique(sources_B).tolist():
            chosen = np.flatnonzero(sources_B == source)
            starts_B[chosen] = window_starts(numbers_B[chosen], seed=self._seed, num_tokens=self.files[source].num_tokens,
                                             sequence_length=self._windows.sequence_length, stream=source)
        return sources_B, starts_B


class ValidationSet:
    """All of a token file in order: every token but the very first, which nothing precedes, is a target exactly once.

    The last window is padded; its padding is a document of its own, with loss_mask 0.

    Args:
        token_file: at least two tokens.
        sequence_length: S.
        document_mask, vocab_size, objective: as `TrainingSet`; its seed is 0 in every run, so that their losses compare.

    Raises:
        DataError: fewer than two tokens.
    """

    def __init__(self, token_file: Tokens, *, sequence_length: int, document_mask: bool, vocab_size: int = 0,
                 objective: Objective | None = None) -> None:
        if token_file.num_tokens < 2:
            raise _too_short(token_file.prefix, token_file.num_tokens, 2)
        self.file = token_file
        self._objective, self._document_mask = objective, document_mask
        numbered = document_mask or objective is not None
        self._windows = Windows(sequence_length=sequence_length, document_mask=numbered, vocab_size=vocab_size)

    def __len__(self) -> int:
        return math.ceil((self.file.num_tokens - 1) / self._windows.sequence_length)

    def sample(self, index: int) -> Sample:
        """Window `index` of the file.

        Raises:
            IndexError: index outside 0 .. len - 1.
            DataError: as `TrainingSet.sample`.
        """
        return self.batch([index]).sample(0)

    def batch(self, indices: Sequence[int], tick: Callable[[], None] = unwatched) -> Batch:
        """Windows of the file, as `sample`."""
        samples_B = np.array(indices, dtype=np.int64)
        outside = samples_B[(samples_B < 0) | (samples_B >= len(self))]
        if len(outside):
            raise IndexError(f"sample {outside[0]} of {len(self)}")
        found = self._windows.batch([self.file], samples_B=samples_B, sources_B=np.zeros_like(samples_B),
                                    starts_B=samples_B * self._windows.sequence_length, wrap=False, tick=tick)
        return apply(self._objective, found, seed=0, document_mask=self._document_mask)


def _too_short(prefix: Path, tokens: int, needed: int) -> DataError:
    message = f"{prefix} holds {tokens} tokens, at least {needed} are needed"
    return DataError(message, do="prepare more text, or lower model.sequence_length", file=f"{prefix}.bin")
