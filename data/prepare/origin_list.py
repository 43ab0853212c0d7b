"""The raw file and the line of each document that a worker has made of a chunk, see `tokens/raw_origins.py`."""

from collections.abc import Sequence

import numpy as np


class OriginList:
    """Those of all parts.

    Args:
        parts: their names.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._files: dict[str, int] = {}
        self._places: dict[str, list[tuple[int, int]]] = {name: [] for name in parts}

    def add(self, part: str, file: str, line: int, *, documents: int = 1) -> None:
        """Appends documents that came of one record."""
        self._places[part] += [(self._files.setdefault(file, len(self._files)), line)] * documents

    @property
    def files(self) -> list[str]:
        """In the order in which they were read."""
        return list(self._files)

    def arrays(self) -> dict[str, np.ndarray]:
        """By part int64 (documents, 2): number in `files`, and line."""
        return {name: np.array(places, dtype=np.int64).reshape(-1, 2) for name, places in self._places.items()}
