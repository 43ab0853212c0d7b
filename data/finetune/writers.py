"""The part of a fine-tuning corpus in the making: a token file and the arrays beside it."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..tokens.arrays import ArrayWriter, array_path
from ..tokens.description import PartDescription
from ..tokens.hashed_file import FilePosition
from ..tokens.writer import TokenFileWriter, WriterPosition


class PartWriter:
    """Writes examples in their order, with arrays beside them; use it as a context manager. It lies in a staging folder: what a
    failure leaves stays, for a later `start`.

    Args:
        folder: of the corpus, staging.
        part: train or validation.
        dtype: of the ids.
        arrays: name and dtype of each array.
        start: what `position` gave; None: from the beginning.

    Raises:
        DataError: what lies there is not what `start` says.
    """

    def __init__(self, folder: Path, part: str, dtype: np.dtype, arrays: Mapping[str, str], *, start: dict[str, Any] | None = None) -> None:
        self._stack = ExitStack()
        self._arrays: dict[str, ArrayWriter] = {}
        try:
            tokens = TokenFileWriter(folder / part, dtype, start=WriterPosition(**start["tokens"]) if start else None, keep=True)
            self._tokens = self._stack.enter_context(tokens)
            for name, kind in arrays.items():
                place = FilePosition(**start["arrays"][name]) if start else None
                self._arrays[name] = self._stack.enter_context(ArrayWriter(array_path(folder, part, name), kind, start=place))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, ids: np.ndarray, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Appends examples.

        Args:
            ids: (tokens,), end to end.
            lengths: (examples,), tokens of each.
            arrays: what goes to each array, by its name.
        """
        self._tokens.add_documents(ids, lengths)
        for name, values in arrays.items():
            self._arrays[name].add(values)

    def position(self) -> dict[str, Any]:
        """Makes everything so far safe on the disk; a `start` for a later writer, plain values."""
        return {"tokens": asdict(self._tokens.position()), "arrays": {name: asdict(each.position()) for name, each in self._arrays.items()}}

    def finish(self) -> PartDescription:
        """Completes all files; returns the entry for `corpus.json`."""
        arrays = {name: each.finish() for name, each in self._arrays.items()}
        return replace(self._tokens.finish(), arrays=arrays)
