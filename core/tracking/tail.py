"""Follows `metrics.jsonl` as it grows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..step_log import decode


class Tail:
    """New whole lines of a metrics file since the last look.

    A file that was replaced or has shrunk (a resume cut it) is read again from its beginning: readers must know the steps they have.

    Args:
        path: the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row not given before, in order; a line without its end is left for the next look."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                row = decode(line)
                if row is not None:
                    yield row
