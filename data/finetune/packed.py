"""Rows of packed examples as training samples. S sequence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..order.permutation import window_starts
from ..order.stages import Stage, Stages
from ..samples.batch import Batch, Sample, stack
from ..tokens.arrays import MappedArray, array_path, open_array
from ..tokens.description import CorpusDescription, read_description, unwatched
from ..tokens.joined import Tokens
from ..tokens.token_file import open_corpus


@dataclass(frozen=True)
class PackedFile:
    """A part of a corpus of packed examples.

    Args:
        tokens: the examples; those of a row are consecutive documents.
        mask: uint8, 1 for each token that is learned.
        rows: int64, the first document of each row, and the number of documents.
    """

    tokens: Tokens
    mask: MappedArray
    rows: MappedArray

    @property
    def num_rows(self) -> int:
        """One epoch."""
        return len(self.rows) - 1


def open_packed(folder: str | Path, part: str = "train", *, tick: Callable[[], None] = unwatched) -> PackedFile:
    """Verifies a part of a chat corpus (milliseconds when it was verified before) and opens it.

    Args:
        folder: that `prepare task=chat` wrote.
        part: train or validation.
        tick: a sign of progress while files are read.

    Raises:
        DataError: missing, damaged, without that part, or of another task.
    """
    description = read_description(folder)
    if description.task.kind != "chat":
        raise DataError(f"{folder} is a corpus of task {description.task.kind}, not chat", do="prepare it with task=chat", file=folder)
    tokens = open_corpus(folder, part, tick=tick)
    found = PackedFile(tokens, *(open_part_array(folder, description, part, name, tick=tick) for name in ("mask", "rows")))
    _check(found, folder, part)
    return found


def open_part_array(folder: str | Path, description: CorpusDescription, part: str, name: str, *,
                    tick: Callable[[], None] = unwatched) -> MappedArray:
    """An array of a part, verified.

    Raises:
        DataError: missing or damaged.
    """
    arrays = description.parts[part].arrays
    if name not in arrays:
        raise DataError(f"{folder} has no array {part}.{name}", do="prepare it again", file=folder)
    return open_array(array_path(Path(folder), part, name), arrays[name], tick)


def _check(packed: PackedFile, folder: str | Path, part: str) -> None:
    """That the arrays belong to the tokens; every entry, because each is an address."""
    rows = packed.rows.read(0, len(packed.rows))
    if len(packed.mask) != packed.tokens.num_tokens:
        what = f"{len(packed.mask)} loss weights for {packed.tokens.num_tokens} tokens"
    elif len(rows) < 2 or rows[0] != 0 or rows[-1] != packed.tokens.num_documents or (np.diff(rows) < 1).any():
        what = f"rows that do not hold each of {packed.tokens.num_documents} examples once"
    else:
        return
    raise DataError(f"{folder} has in its part {part} {what}", do="prepare it again", file=folder)


class _Rows:
    """Cuts rows out of packed files: each example a document of its own, its last token only a target, the rest padding without loss."""

    def __init__(self, *, sequence_length: int, vocab_size: int) -> None:
        self._sequence_length = sequence_length
        self._vocab_size = vocab_size

    def sample(self, file: PackedFile, row: int, *, index: int, source: int) -> Sample:
        length = self._sequence_length
        first, last = file.rows.read(row, 2).tolist()
        edges = np.array([file.tokens.document_start(number) for number in range(first, last + 1)])
        start, lengths = int(edges[0]), np.diff(edges)
        ids = file.tokens.read(start, int(edges[-1]) - start)
        learned = file.mask.read(start, len(ids))
        used = len(ids) - len(lengths)
        if used > length or lengths.min() < 2:
            message = f"row {row} of {file.tokens.prefix} has {used} inputs for {length} places, in examples from {lengths.min()} tokens on"
            raise DataError(message, do=f"prepare again with task.sequence_length={length}", file=file.tokens.prefix)
        self._check_ids(file, ids, start)
        inputs, targets = np.ones(len(ids), dtype=bool), np.ones(len(ids), dtype=bool)
        inputs[edges[1:] - start - 1] = False
        targets[edges[:-1] - start] = False
        tokens_S, targets_S = np.zeros(length, dtype=ids.dtype), np.zeros(length, dtype=ids.dtype)
        loss_mask_S = np.zeros(length, dtype=np.float32)
        tokens_S[:used], targets_S[:used], loss_mask_S[:used] = ids[inputs], ids[targets], learned[targets]
        sizes = np.append(lengths - 1, length - used)  # padding is a document of its own
        begins = np.cumsum(sizes) - sizes
        return Sample(
            tokens_S=tokens_S, targets_S=targets_S, documents_S=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            positions_S=np.arange(length, dtype=np.int32) - np.repeat(begins.astype(np.int32), sizes), loss_mask_S=loss_mask_S, index=index,
            source=source, document_ids=tuple(range(first, last)), start=start,
        )

    def _check_ids(self, file: PackedFile, ids: np.ndarray, start: int) -> None:
        if not self._vocab_size or (ids.max() < self._vocab_size and ids.min() >= 0):
            return
        inside = int(np.flatnonzero((ids >= self._vocab_size) | (ids < 0))[0])
        document = file.tokens.document_at(start + inside)
        where = f"document {document}, offset {start + inside - file.tokens.document_start(document)}"
        path = f"{file.tokens.prefix}.bin"
        message = f"{path} holds the id {ids[inside]} ({where}), but model.vocab_size={self._vocab_size}"
        raise DataError(message, do="raise model.vocab_size, or prepare the corpus with the model's tokenizer", file=path)


class PackedSet:
    """An endless, shuffled mixture of packed corpora; sample i is a pure function of (seed, i). Takes the place of a `TrainingSet`.

    The order is that of windows, with rows for tokens: every row once an epoch, each epoch another permutation.

    Args:
        sources: packed files with their weights.
        sequence_length: S, inputs of a row.
        seed: of the order.
        vocab_size: check every id against it; 0: no check.
        stages: mixtures that follow one another, as in `TrainingSet`; empty: the sources' own weights throughout.
    """

    def __init__(self, sources: Sequence[tuple[PackedFile, float]], *, sequence_length: int, seed: int, vocab_size: int = 0,
                 stages: Sequence[Stage] = ()) -> None:
        self.packed = [file for file, _ in sources]
        self.files = [file.tokens for file in self.packed]
        self.order = Stages(stages or [Stage(0, tuple(weight for _, weight in sources), sequence_length)])
        self._seed = seed
        self._rows = _Rows(sequence_length=sequence_length, vocab_size=vocab_size)

    def sample(self, index: int) -> Sample:
        """Global sample `index` of the run, from 0 and without end.

        Raises:
            DataError: an id does not fit the vocabulary, or a file was truncated.
        """
        return self.batch([index]).sample(0)

    def batch(self, indices: Sequence[int], tick: Callable[[], None] = unwatched) -> Batch:
        """Global samples of the run, as `TrainingSet.batch`."""
        samples_B = np.array(indices, dtype=np.int64)
        sources_B, rows_B = self.rows(samples_B)
        found = []
        for index, source, row in zip(indices, sources_B.tolist(), rows_B.tolist(), strict=True):
            found.append(self._rows.sample(self.packed[source], row, index=index, source=source))
            tick()
        return stack(found)

    def rows(self, samples_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source and row of each sample, int64 (B,); reads nothing."""
        sources_B, numbers_B = self.order.locate(samples_B)
        rows_B = np.zeros_like(samples_B)
        for source in np.unique(sources_B).tolist():
            chosen, count = np.flatnonzero(sources_B == source), self.packed[source].num_rows
            if count > 1:
                rows_B[chosen] = window_starts(numbers_B[chosen], seed=self._seed, num_tokens=count, sequence_length=1, stream=source)
        return sources_B, rows_B


class PackedValidationSet:
    """All rows of a packed file in order. Takes the place of a `ValidationSet`.

    Args:
        packed: the file.
        sequence_length, vocab_size: as `PackedSet`.
    """

    def __init__(self, packed: PackedFile, *, sequence_length: int, vocab_size: int = 0) -> None:
        self.packed = packed
        self.file = packed.tokens
        self._rows = _Rows(sequence_length=sequence_length, vocab_size=vocab_size)

    def __len__(self) -> int:
        return self.packed.num_rows

    def sample(self, index: int) -> Sample:
        """Row `index`.

        Raises:
            IndexError: outside 0 .. len - 1.
            DataError: as `PackedSet.sample`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._rows.sample(self.packed, index, index=index, source=0)

    def batch(self, indices: Sequence[int], tick: Callable[[], None] = unwatched) -> Batch:
        """Rows, as `sample`."""
        found = []
        for index in indices:
            found.append(self.sample(index))
            tick()
        return stack(found)
