"""Classified texts and preference pairs as a training head will read them: by number, verified, nothing held in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..tokens.description import CorpusDescription, read_description, unwatched
from ..tokens.joined import Tokens
from ..tokens.token_file import open_corpus
from .packed import open_part_array


@dataclass(frozen=True)
class Classified:
    """ids, shape (n,), closed by the end-of-document id; class_id: place of the label in the label set."""

    ids: np.ndarray
    class_id: int


@dataclass(frozen=True)
class Pair:
    """The same prompt with both answers: ids, shape (n,), and masks, uint8 (n,), 1 for the tokens of the answer."""

    chosen_ids: np.ndarray
    chosen_mask: np.ndarray
    rejected_ids: np.ndarray
    rejected_mask: np.ndarray


class ClassifiedSet:
    """A part of a corpus of task classification.

    Args:
        folder: that `prepare task=classification` wrote.
        part: train or validation.
        tick: a sign of progress while files are read.

    Raises:
        DataError: missing, damaged, without that part, or of another task.
    """

    def __init__(self, folder: str | Path, part: str = "train", *, tick: Callable[[], None] = unwatched) -> None:
        description = description_of(folder, "classification")
        self.labels = description.task.labels
        self._tokens = open_corpus(folder, part, tick=tick)
        self._labels = open_part_array(folder, description, part, "labels", tick=tick)
        ids = self._labels.read(0, len(self._labels))
        if len(ids) != self._tokens.num_documents or (len(ids) and not 0 <= ids.min() <= ids.max() < len(self.labels)):
            what = f"{len(ids)} labels for {self._tokens.num_documents} texts, or one outside of {len(self.labels)} classes"
            raise DataError(f"{folder} has in its part {part} {what}", do="prepare it again", file=folder)

    def __len__(self) -> int:
        return self._tokens.num_documents

    def example(self, number: int) -> Classified:
        """One text.

        Raises:
            IndexError: outside 0 .. len - 1.
            DataError: a file was truncated.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"example {number} of {len(self)}")
        return Classified(self._tokens.document(number), int(self._labels.read(number, 1)[0]))


class PairSet:
    """A part of a corpus of task preference.

    Args:
        folder, part, tick: as `ClassifiedSet`.

    Raises:
        DataError: as `ClassifiedSet`.
    """

    def __init__(self, folder: str | Path, part: str = "train", *, tick: Callable[[], None] = unwatched) -> None:
        description = description_of(folder, "preference")
        self._tokens: Tokens = open_corpus(folder, part, tick=tick)
        self._mask = open_part_array(folder, description, part, "mask", tick=tick)
        if len(self._mask) != self._tokens.num_tokens or self._tokens.num_documents % 2:
            what = f"{len(self._mask)} loss weights for {self._tokens.num_tokens} tokens of {self._tokens.num_documents} answers"
            raise DataError(f"{folder} has in its part {part} {what}", do="prepare it again", file=folder)

    def __len__(self) -> int:
        return self._tokens.num_documents // 2

    def pair(self, number: int) -> Pair:
        """One pair.

        Raises:
            IndexError: outside 0 .. len - 1.
            DataError: a file was truncated.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"pair {number} of {len(self)}")
        return Pair(*self._side(2 * number), *self._side(2 * number + 1))

    def _side(self, document: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self._tokens.document(document)
        return ids, self._mask.read(int(self._tokens.document_start(document)), len(ids))


def description_of(folder: str | Path, kind: str) -> CorpusDescription:
    """That of a corpus of this task.

    Raises:
        DataError: it is of another.
    """
    description = read_description(folder)
    if description.task.kind != kind:
        raise DataError(f"{folder} is a corpus of task {description.task.kind}, not {kind}", do=f"prepare it with task={kind}", file=folder)
    return description
