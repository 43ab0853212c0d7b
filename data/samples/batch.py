"""Samples and batches as plain arrays. S sequence, B samples."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(kw_only=True, eq=False, slots=True)  # not frozen: that costs 3 us a sample
class Sample:
    """One training item of sequence_length tokens. Its arrays may be shared with other samples: read them only.

    Without a document mask, documents_S is all 0 and positions_S counts through.
    """

    tokens_S: np.ndarray  # int64
    targets_S: np.ndarray  # int64, the token after each
    documents_S: np.ndarray  # int32, number of the segment inside this window
    positions_S: np.ndarray  # int64, restart with each segment
    loss_mask_S: np.ndarray  # float32, 0 where the target does not count
    index: int  # global number of the sample
    source: int  # which of the sources of a mixture
    document_ids: tuple[int, ...]  # numbers, in the source, of the documents the inputs come from


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples stacked; the fields of `Sample` with a leading B."""

    tokens_BS: np.ndarray
    targets_BS: np.ndarray
    documents_BS: np.ndarray
    positions_BS: np.ndarray
    loss_mask_BS: np.ndarray
    samples_B: np.ndarray  # int64, global numbers
    sources_B: np.ndarray  # int64
    document_ids_B: tuple[tuple[int, ...], ...]

    def split(self, micro_size: int) -> "list[Batch]":
        """Consecutive micro-batches, as views.

        Raises:
            ValueError: micro_size does not divide the number of samples.
        """
        size = len(self.samples_B)
        if micro_size < 1 or size % micro_size:
            raise ValueError(f"micro_size={micro_size} must divide the {size} samples of the batch")
        starts = range(0, size, micro_size)
        return [Batch(**{field.name: getattr(self, field.name)[at : at + micro_size] for field in fields(self)}) for at in starts]


def stack(samples: Sequence[Sample]) -> Batch:
    """One batch of all samples, in their order (at least one, all of one length)."""
    return Batch(
        tokens_BS=np.stack([sample.tokens_S for sample in samples]),
        targets_BS=np.stack([sample.targets_S for sample in samples]),
        documents_BS=np.stack([sample.documents_S for sample in samples]),
        positions_BS=np.stack([sample.positions_S for sample in samples]),
        loss_mask_BS=np.stack([sample.loss_mask_S for sample in samples]),
        samples_B=np.array([sample.index for sample in samples], dtype=np.int64),
        sources_B=np.array([sample.source for sample in samples], dtype=np.int64),
        document_ids_B=tuple(sample.document_ids for sample in samples),
    )
