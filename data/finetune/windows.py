"""Examples in the order of the input to packed rows: window after window of them, each by itself, from the staging folder."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..prepare.journal import StagingDamaged
from ..prepare.tally import Result, Tally
from ..tokens.arrays import array_path
from ..tokens.description import SOURCES, FileDescription, PartDescription, describe_file
from ..tokens.index_file import HEADER
from .packing import pack

WINDOW_TOKENS = 1 << 24  # examples that are packed together: enough for rows that are all but full, little enough for memory
_LENGTHS = 1 << 18  # read at once


@dataclass(frozen=True)
class Window:
    """Consecutive examples of a part.

    Args:
        part: train or validation.
        example: number of the first one.
        token: number of its first token.
        lengths: int32 (examples,), tokens of each.
        read: bytes of the token file that it stands for.
    """

    part: str
    example: int
    token: int
    lengths: np.ndarray
    read: int


@dataclass(kw_only=True)
class Packed(Result):
    """A window's rows: `order`, int64 (examples,), the examples row after row; `sizes`, int64 (rows,), how many each row has."""

    window: Window
    order: np.ndarray
    sizes: np.ndarray


class PackTask:
    """Packs a window.

    Args:
        sequence_length: inputs of a row; an example of n tokens takes n - 1 of them.
    """

    def __init__(self, sequence_length: int) -> None:
        self._sequence_length = sequence_length

    def __call__(self, window: Window) -> Packed:
        rows = pack(window.lengths.astype(np.int64) - 1, self._sequence_length)
        order, sizes = np.array([example for row in rows for example in row]), np.array([len(row) for row in rows])
        return Packed(read=window.read, tally=Tally(documents=len(order)), window=window, order=order, sizes=sizes)


class Windows:
    """The windows of all parts, one part after the other. A window ends with the example that fills it, so windows depend on nothing
    but the examples.

    Args:
        folder: where they were written, with their masks and origins.
        parts: what was written, by name.
        sources: the names of the raw files.

    Raises:
        StagingDamaged: it is not there any more as it was written.
    """

    raw = False

    def __init__(self, folder: Path, parts: Mapping[str, PartDescription], sources: FileDescription) -> None:
        self._folder = folder
        self._parts = parts
        files = {folder / SOURCES: sources}
        for name, part in parts.items():
            files |= {folder / f"{name}.bin": part.bin, folder / f"{name}.idx": part.idx}
            files |= {array_path(folder, name, array): described.file for array, described in part.arrays.items()}
        for file, written in files.items():
            if not file.exists() or asdict(describe_file(file)) != asdict(written):
                raise StagingDamaged(f"{file.name} is damaged")

    @property
    def total(self) -> int:
        """Bytes of all token files."""
        return sum(part.bin.size for part in self._parts.values())

    def items(self, place: dict[str, Any] | None) -> Iterator[tuple[Window, dict[str, Any]]]:
        """The windows behind a place, each with the place behind it; None: from the beginning."""
        names = list(self._parts)
        first = names.index(place["part"]) if place else 0
        for name in names[first:]:
            example, token = (place["example"], place["token"]) if place and name == place["part"] else (0, 0)
            for lengths in self._lengths(name, example):
                tokens = int(lengths.sum(dtype=np.int64))
                window = Window(name, example, token, lengths, tokens * np.dtype(self._parts[name].dtype).itemsize)
                example, token = example + len(lengths), token + tokens
                yield window, {"part": name, "example": example, "token": token}

    def _lengths(self, name: str, example: int) -> Iterator[np.ndarray]:
        """The lengths of the examples of each window, from an example on."""
        held = np.empty(0, np.int32)
        with (self._folder / f"{name}.idx").open("rb") as index:
            index.seek(HEADER.size + 4 * example)
            left = self._parts[name].documents - example
            while left or len(held):
                end = int(np.searchsorted(np.cumsum(held, dtype=np.int64), WINDOW_TOKENS)) + 1
                if end > len(held) and left:
                    found = np.fromfile(index, "<i4", min(_LENGTHS, left))
                    held, left = np.concatenate([held, found]), left - len(found)
                    continue
                yield held[:end]
                held = held[end:]
