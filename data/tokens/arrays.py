"""Raw little-endian arrays beside a token file, `<part>.<name>.bin`: written as a stream, verified when opened, then mapped."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..errors import DataError
from .description import BLOCK_BYTES, ArrayDescription, FileDescription, describe_file, unwatched, write_atomically
from .hashed_file import FilePosition, HashedFile
from .stamp import FileState

_COPY_AGAIN = "copy the folder again from its source, or prepare it again"


class ArrayWriter:
    """One array in the making; use it as a context manager.

    Args:
        path: its file; lies in the staging folder, so it needs no other name meanwhile.
        dtype: uint8, int32 or int64.
        start: where an interrupted writer goes on; all behind it is cut off.

    Raises:
        DataError: what lies there is not what `start` says.
    """

    def __init__(self, path: Path, dtype: str, *, start: FilePosition | None = None) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._name = dtype
        self._file = HashedFile(path, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, values: np.ndarray) -> None:
        """Appends numbers, shape (n,), which the dtype can hold."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())

    def position(self) -> FilePosition:
        """Makes everything so far safe on the disk; a `start` for a later writer."""
        return self._file.position()

    def finish(self) -> ArrayDescription:
        """Makes it safe; returns the entry for `corpus.json`."""
        count = self._file.size // self._dtype.itemsize
        return ArrayDescription(dtype=self._name, count=count, file=self._file.finish())


def array_path(folder: Path, part: str, name: str) -> Path:
    """Where an array of a part lies."""
    return folder / f"{part}.{name}.bin"


class MappedArray:
    """A verified array, read where it lies.

    Args:
        path: its file.
        description: its entry in `corpus.json`.

    Raises:
        DataError: missing, or of another size.
    """

    def __init__(self, path: Path, description: ArrayDescription) -> None:
        self._path = path
        size = FileState.of(path).size
        if size != description.file.size:
            raise DataError(f"{path} has {size} bytes, corpus.json says {description.file.size}", do=_COPY_AGAIN, file=path)
        self._size = size
        dtype = np.dtype(description.dtype).newbyteorder("<")
        self._values = np.memmap(path, dtype, "r") if size else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self._values)

    def read(self, start: int, count: int) -> np.ndarray:
        """Numbers start .. start + count, a read-only view.

        Raises:
            DataError: the file has been truncated since it was opened.
        """
        if os.stat(self._path).st_size < self._size:  # touching a page behind the end of a mapped file kills the process
            raise DataError(f"{self._path} was truncated while in use", do=_COPY_AGAIN, file=self._path)
        return self._values[start : start + count]


def open_array(path: Path, description: ArrayDescription, tick: Callable[[], None] = unwatched) -> MappedArray:
    """Verifies an array, in microseconds where a stamp says that this very file was verified, and maps it.

    Args:
        path: its file.
        description: its entry in `corpus.json`.
        tick: a sign of progress while it is read.

    Raises:
        DataError: missing or damaged.
    """
    array = MappedArray(path, description)
    state = {**asdict(FileState.of(path)), "blocks": list(description.file.blocks)}
    stamp = path.with_name(f"{path.name}.stamp.json")
    if _read(stamp) != state:
        found = describe_file(path, tick)
        if damaged := damaged_blocks(found, description.file):
            start = damaged[0] * BLOCK_BYTES
            end = min(start + BLOCK_BYTES, found.size)
            raise DataError(f"{path} is damaged: bytes {start} to {end} do not have the checksum of corpus.json", do=_COPY_AGAIN, file=path)
        try:
            write_atomically(stamp, json.dumps(state) + "\n")
        except OSError as error:  # a read-only folder: verified again next time
            logging.getLogger(__name__).debug("no stamp for %s: %s", path, error)
    return array


def damaged_blocks(found: FileDescription, expected: FileDescription) -> list[int]:
    """Numbers of the blocks whose checksum is not the expected one; of two files of unequal length those that only one has, too."""
    most = max(len(found.blocks), len(expected.blocks))
    return [i for i in range(most) if found.blocks[i : i + 1] != expected.blocks[i : i + 1]]


def _read(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
