"""Samples and batches as plain arrays. S sequence, B samples, D documents of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(kw_only=True, eq=False, slots=True)  # not frozen: that costs 3 us a sample
class Sample:
    """One training item of sequence_length tokens. Its arrays may be shared with other samples: read them only.

    Without a document mask, documents_S is all 0 and positions_S counts through.
    """

    tokens_S: np.ndarray  # integers, of the file's own dtype
    targets_S: np.ndarray  # the token after each
    documents_S: np.ndarray  # int32, number of the segment inside this window
    positions_S: np.ndarray  # int32, restart with each segment
    loss_mask_S: np.ndarray  # float32, 0 where the target does not count
    index: int  # global number of the sample
    source: int  # which of the sources of a mixture
    document_ids: tuple[int, ...]  # numbers, in the source, of the documents the inputs come from
    start: int = 0  # position in the source of the first token, where it is a window of a stream


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples stacked; the fields of `Sample` with a leading B.

    Tokens and targets keep the dtype of the file (two bytes an id, mostly) and may be views of one array of windows: whoever needs wide
    integers widens them where they are needed, on the device.
    """

    tokens_BS: np.ndarray
    targets_BS: np.ndarray
    documents_BS: np.ndarray
    positions_BS: np.ndarray
    loss_mask_BS: np.ndarray
    samples_B: np.ndarray  # int64, global numbers
    sources_B: np.ndarray  # int64
    starts_B: np.ndarray  # int64
    num_documents_B: np.ndarray  # int64, how many of documents_D are each sample's
    documents_D: np.ndarray  # int64, their numbers, sample after sample

    @cached_property
    def document_ids_B(self) -> tuple[tuple[int, ...], ...]:
        """Of each sample, the numbers of its documents in its source."""
        ends = np.cumsum(self.num_documents_B).tolist()
        numbers = self.documents_D.tolist()
        return tuple(tuple(numbers[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True))

    def part(self, first: int, last: int) -> "Batch":
        """The samples first .. last, as views."""
        begin, end = (int(self.num_documents_B[:edge].sum()) for edge in (first, last))
        return Batch(
            tokens_BS=self.tokens_BS[first:last], targets_BS=self.targets_BS[first:last], documents_BS=self.documents_BS[first:last],
            positions_BS=self.positions_BS[first:last], loss_mask_BS=self.loss_mask_BS[first:last], samples_B=self.samples_B[first:last],
            sources_B=self.sources_B[first:last], starts_B=self.starts_B[first:last],
            num_documents_B=self.num_documents_B[first:last], documents_D=self.documents_D[begin:end],
        )

    def split(self, micro_size: int) -> "list[Batch]":
        """Consecutive micro-batches, as views.

        Raises:
            ValueError: micro_size does not divide the number of samples.
        """
        size = len(self.samples_B)
        if micro_size < 1 or size % micro_size:
            raise ValueError(f"micro_size={micro_size} must divide the {size} samples of the batch")
        return [self.part(at, at + micro_size) for at in range(0, size, micro_size)]

    def sample(self, number: int) -> Sample:
        """One of them, as views."""
        return Sample(
            tokens_S=self.tokens_BS[number], targets_S=self.targets_BS[number], documents_S=self.documents_BS[number],
            positions_S=self.positions_BS[number], loss_mask_S=self.loss_mask_BS[number], index=int(self.samples_B[number]),
            source=int(self.sources_B[number]), document_ids=self.document_ids_B[number], start=int(self.starts_B[number]),
        )


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
        starts_B=np.array([sample.start for sample in samples], dtype=np.int64),
        num_documents_B=np.array([len(sample.document_ids) for sample in samples], dtype=np.int64),
        documents_D=np.array([number for sample in samples for number in sample.document_ids], dtype=np.int64),
    )


def join(parts: Sequence[Batch]) -> Batch:
    """One batch of several, one after the other (at least one, all of one length)."""
    if len(parts) == 1:
        return parts[0]

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Batch(
        tokens_BS=all_of("tokens_BS"), targets_BS=all_of("targets_BS"), documents_BS=all_of("documents_BS"),
        positions_BS=all_of("positions_BS"), loss_mask_BS=all_of("loss_mask_BS"), samples_B=all_of("samples_B"),
        sources_B=all_of("sources_B"), starts_B=all_of("starts_B"), num_documents_B=all_of("num_documents_B"),
        documents_D=all_of("documents_D"),
    )
