"""A file in the making that grows at its end, with the checksums of its blocks; interrupted, it goes on where it was safe."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import DataError
from .description import BLOCK_BYTES, BlockHasher, FileDescription


@dataclass(frozen=True, kw_only=True)
class FilePosition:
    """How far a `HashedFile` is, all of it safe on the disk; plain values, so that it can be kept as JSON.

    `size`: bytes. `blocks`: checksums of its whole blocks of 16 MiB; `rest`: of what follows them.
    """

    size: int
    blocks: list[str]
    rest: str


class HashedFile:
    """Use it as a context manager. It lies in a staging folder, so it needs no other name meanwhile.

    Args:
        path: of the file.
        start: where an interrupted one goes on; all behind it is cut off. None: a new file.

    Raises:
        DataError: what lies there is not what `start` says.
    """

    def __init__(self, path: Path, start: FilePosition | None = None) -> None:
        self.path = path
        self.size = start.size if start else 0
        self._hasher = BlockHasher(start.blocks if start else ())
        self._stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=2**20)
        try:
            self._go_on(start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._stream.write(data)
        self._hasher.update(data)
        self.size += len(data)

    def position(self) -> FilePosition:
        """Makes everything so far safe on the disk.

        Returns:
            A `start` for a later one.
        """
        self._sync()
        return FilePosition(size=self.size, blocks=self._hasher.blocks, rest=self._hasher.rest)

    def finish(self) -> FileDescription:
        """Makes it safe and closes it; returns its size and checksums."""
        self._sync()
        self.close()
        return self._hasher.finish()

    def close(self) -> None:
        """On a full disk the last bytes cannot be written: they are behind every position, and not missed."""
        with suppress(OSError):
            self._stream.close()

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _go_on(self, start: FilePosition | None) -> None:
        """Cuts off what is not safe, and reads back the last, open block."""
        there = os.fstat(self._stream.fileno()).st_size
        if there > self.size:
            self._stream.truncate(self.size)
        if start is None:
            return
        self._stream.seek(BLOCK_BYTES * len(start.blocks))
        while data := self._stream.read(2**20):
            self._hasher.update(data)
        if there < self.size or self._hasher.blocks != list(start.blocks) or self._hasher.rest != start.rest:
            raise DataError(f"{self.path} is not what was written", do="write it anew", file=self.path)
