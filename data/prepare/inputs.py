"""Where a pass reads: the input files, or the store that the cleaning pass wrote.

Both give items for workers, each with the place behind it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..sources.chunk import CHUNK, Chunk, Place
from ..sources.find import Source
from ..sources.read import read_chunks
from .store import read_frames


class Item(Protocol):
    """Work for one worker: a chunk, a frame of the store, ..."""

    @property
    def read(self) -> int:
        """How many bytes of the input it stands for."""


class Input(Protocol):
    """What a pass goes through."""

    raw: bool  # records of the user's files, which may be bad

    @property
    def total(self) -> int:
        """Bytes of all files; what the `read` of all items adds up to."""

    def items(self, place: dict[str, Any] | None) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The items behind a place, each with the place behind it, plain values; None: from the beginning."""


class RawInput:
    """The input files.

    Args:
        sources: as `find_sources` gives them.
        text_key: key of the text in JSON lines, column in tables.
    """

    raw = True

    def __init__(self, sources: Sequence[Source], text_key: str) -> None:
        self._sources = sources
        self._text_key = text_key

    @property
    def total(self) -> int:
        return sum(source.size for source in self._sources)

    def items(self, place: dict[str, Any] | None) -> Iterator[tuple[Item, dict[str, Any]]]:
        start = Place(**place) if place else None
        for chunk in read_chunks(self._sources, text_key=self._text_key, start=start):
            yield chunk, asdict(chunk.next)


class StoredInput:
    """The cleaned documents.

    Args:
        path: of the store.
        size: its bytes.
        gone: uint8, which rule over the whole corpus removes each document, 0: none; None: there was no such rule.
    """

    raw = False

    def __init__(self, path: Path, size: int, gone: np.ndarray | None) -> None:
        self._path = path
        self._size = size
        self._gone = gone

    @property
    def total(self) -> int:
        return self._size

    def items(self, place: dict[str, Any] | None) -> Iterator[tuple[Item, dict[str, Any]]]:
        start = (place["byte"], place["document"]) if place else (0, 0)
        for frame, (byte, document) in read_frames(self._path, size=self._size, start=start, gone=self._gone):
            yield frame, {"byte": byte, "document": document}


def weight(item: Item) -> int:
    """About how many bytes of memory an item takes."""
    return max(CHUNK, item.size if isinstance(item, Chunk) else item.read)
