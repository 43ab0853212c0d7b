"""The part of a fine-tuning corpus in the making: a token file and the arrays beside it."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..tokens.arrays import ArrayWriter, array_path
from ..tokens.description import ArrayDescription, PartDescription
from ..tokens.writer import TokenFileWriter
from .packing import WINDOW_TOKENS, pack
from .records import ClassKey, Label, class_key
from .work import Examples


class PartWriter:
    """Writes examples in their order with the arrays of their task; use it as a context manager.

    Args:
        folder: of the corpus, staging.
        part: train or validation.
        dtype: of the ids.
        classes: write labels and no mask; else a mask.
    """

    def __init__(self, folder: Path, part: str, dtype: np.dtype, *, classes: bool = False) -> None:
        self._stack = ExitStack()
        self._tokens = self._stack.enter_context(TokenFileWriter(folder / part, dtype))
        names = {"labels": "int32"} if classes else {"mask": "uint8"}
        self._arrays = {name: self._stack.enter_context(ArrayWriter(array_path(folder, part, name), kind)) for name, kind in names.items()}
        self._numbers: dict[ClassKey, int] = {}  # of labels, as they come
        self._labels: list[np.ndarray] = []  # four bytes an example, until the set is known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, examples: Examples) -> None:
        """Appends examples."""
        self._tokens.add_documents(examples.ids, examples.lengths)
        if "mask" in self._arrays:
            self._arrays["mask"].add(examples.mask)
        else:
            numbers = [self._numbers.setdefault(label, len(self._numbers)) for label in map(class_key, examples.labels)]
            self._labels.append(np.array(numbers, dtype=np.int32))

    @property
    def classes(self) -> set[ClassKey]:
        """Those that came."""
        return set(self._numbers)

    def finish(self, label_set: tuple[Label, ...] = ()) -> PartDescription:
        """Completes all files.

        Args:
            label_set: of the corpus; a class id is a place in it.

        Returns:
            The entry for `corpus.json`.
        """
        if self._labels:
            places = {class_key(label): place for place, label in enumerate(label_set)}
            table = np.array([places[label] for label in self._numbers], dtype=np.int32)
            for numbers in self._labels:
                self._arrays["labels"].add(table[numbers])
        arrays: dict[str, ArrayDescription] = {name: array.finish() for name, array in self._arrays.items()}
        return replace(self._tokens.finish(), arrays=arrays)


class PackedPartWriter:
    """As `PartWriter`, in rows: the examples of a row are consecutive documents, and the array `rows` says with which each begins.

    Args:
        folder, part, dtype: as `PartWriter`.
        sequence_length: inputs of a row; an example of n tokens takes n - 1 of them.
    """

    def __init__(self, folder: Path, part: str, dtype: np.dtype, *, sequence_length: int) -> None:
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(PartWriter(folder, part, dtype))
        self._rows = self._stack.enter_context(ArrayWriter(array_path(folder, part, "rows"), "int64"))
        self._sequence_length = sequence_length
        self._waiting: list[Examples] = []
        self._waiting_tokens = self._documents = self.inputs = self.num_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, examples: Examples) -> None:
        """Takes examples; they are written when there are enough for rows that are nearly full."""
        self._waiting.append(examples)
        self._waiting_tokens += len(examples.ids)
        if self._waiting_tokens >= WINDOW_TOKENS:
            self._write_rows()

    def finish(self) -> PartDescription:
        """As `PartWriter.finish`."""
        self._write_rows()
        self._rows.add(np.array([self._documents]))
        description = self._writer.finish()
        return replace(description, arrays={**description.arrays, "rows": self._rows.finish()})

    @property
    def filled(self) -> float:
        """Part of the inputs of all rows that are tokens of examples."""
        return self.inputs / max(1, self.num_rows * self._sequence_length)

    def _write_rows(self) -> None:
        lengths = np.concatenate([np.empty(0, dtype=np.int64), *(each.lengths for each in self._waiting)])
        if not len(lengths):
            return
        rows = pack(lengths - 1, self._sequence_length)
        order = [document for row in rows for document in row]
        cuts = np.cumsum(lengths)[:-1]
        parts = [np.split(np.concatenate([getattr(each, name) for each in self._waiting]), cuts) for name in ("ids", "mask")]
        ids, mask = (np.concatenate([part[document] for document in order]) for part in parts)
        self._writer.add(Examples(ids, mask, lengths[order], []))
        sizes = np.array([len(row) for row in rows])
        self._rows.add(self._documents + np.cumsum(sizes) - sizes)
        self._documents += len(order)
        self.inputs += int(lengths.sum()) - len(lengths)
        self.num_rows += len(rows)
        self._waiting, self._waiting_tokens = [], 0
