"""A file in the making that grows at its end; interrupted, it goes on where it was safe."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from ..errors import DataError


class AppendedFile:
    """Use it as a context manager. It lies in a staging folder, so it needs no other name meanwhile.

    Args:
        path: of the file.
        size: bytes of it that stand; what follows is cut off.

    Raises:
        DataError: there are fewer.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        self._stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=2**20)
        if os.fstat(self._stream.fileno()).st_size < size:
            self.close()
            raise self._damage()
        self._stream.truncate(size)
        self._stream.seek(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._stream.write(data)
        self.size += len(data)

    def sync(self) -> int:
        """Makes it safe on the disk; gives its size in bytes."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self.size

    def close(self) -> None:
        """On a full disk the last bytes cannot be written: they are behind every safe place, and not missed."""
        with suppress(OSError):
            self._stream.close()

    def _damage(self) -> DataError:
        return DataError(f"{self.path} is not what was written", do="write it anew", file=self.path)
