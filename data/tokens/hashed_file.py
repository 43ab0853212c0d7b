"""A file in the making with the checksums of its blocks; interrupted, it goes on where it was safe."""

from dataclasses import dataclass
from pathlib import Path

from .appended_file import AppendedFile
from .description import BLOCK_BYTES, BlockHasher, FileDescription


@dataclass(frozen=True, kw_only=True)
class FilePosition:
    """How far a `HashedFile` is, all of it safe on the disk; plain values, so that it can be kept as JSON.

    `size`: bytes. `blocks`: checksums of its whole blocks of 16 MiB; `rest`: of what follows them.
    """

    size: int
    blocks: list[str]
    rest: str


class HashedFile(AppendedFile):
    """Use it as a context manager.

    Args:
        path: of the file.
        start: where an interrupted one goes on; all behind it is cut off. None: a new file.

    Raises:
        DataError: what lies there is not what `start` says.
    """

    def __init__(self, path: Path, start: FilePosition | None = None) -> None:
        super().__init__(path, start.size if start else 0)
        self._hasher = BlockHasher(start.blocks if start else ())
        try:
            if start is not None:
                self._read_back(start)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        super().write(data)
        self._hasher.update(data)

    def position(self) -> FilePosition:
        """Makes everything so far safe on the disk.

        Returns:
            A `start` for a later one.
        """
        return FilePosition(size=self.sync(), blocks=self._hasher.blocks, rest=self._hasher.rest)

    def finish(self) -> FileDescription:
        """Makes it safe and closes it; returns its size and checksums."""
        self.sync()
        self.close()
        return self._hasher.finish()

    def _read_back(self, start: FilePosition) -> None:
        """The last, open block."""
        self._stream.seek(BLOCK_BYTES * len(start.blocks))
        while data := self._stream.read(2**20):
            self._hasher.update(data)
        if self._hasher.blocks != list(start.blocks) or self._hasher.rest != start.rest:
            raise self._damage()
