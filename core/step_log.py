"""Files of one JSON object a line, each with its step: a killed run loses at most the line it was writing, a resume cuts what it redoes.

Pure: imports neither torch nor a tracking library.
"""

import errno
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .checkpoint.storage import free_bytes, in_words
from .errors import StorageError

MOST_HELD = 8 * 2**20  # bytes of lines that wait for a full disk to have room again
_PASSING = {errno.ENOSPC, errno.EDQUOT}  # somebody may free space
_log = logging.getLogger(__name__)


class StepLog:
    """Appends lines of JSON, each with its step, to a file that readers may follow.

    Each `append` is one `write` on an `O_APPEND` descriptor, so SIGKILL leaves at most one torn line, the last one. Opening removes a
    torn last line, so that the next line starts where it should. What a full disk does not take is held in memory and written, in
    order, as soon as there is room; `flush` and `close` raise where there still is none, so nothing is lost in silence.

    Args:
        path: the file; its folder must exist.

    Raises:
        StorageError: the file cannot be opened or written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._held = b""
        self._descriptor = self._open()

    def append(self, lines: bytes) -> None:
        """Append whole lines, from `encode`.

        Raises:
            StorageError: the disk is failing, or has been full for too long; the file still ends in a whole line.
        """
        waiting = bool(self._held)
        self._held += lines
        try:
            self._write_held()
        except OSError as error:
            if error.errno not in _PASSING or len(self._held) > MOST_HELD:
                raise self._storage_error(error) from error
            if not waiting:
                _log.warning("%s cannot be written (%s): its lines are held in memory until there is room", self.path, error.strerror)
        else:
            if waiting:
                _log.warning("%s is written again, with all lines that were held", self.path)

    def flush(self) -> None:
        """Every line is on the disk.

        Raises:
            StorageError: the disk is full or failing.
        """
        try:
            self._write_held()
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._storage_error(error) from error

    def _write_held(self) -> None:
        if not self._held:
            return
        written = os.write(self._descriptor, self._held)
        if written < len(self._held):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._held = b""

    def cut_after(self, step: int) -> None:
        """Drop every torn line and every line of a later step than `step`, in one atomic replacement.

        A resume calls it with its checkpoint's step (a fresh start with 0), before it records anything, so that each step stands in the
        file once.
        """
        try:
            self._write_held()
        except OSError as error:
            raise self._storage_error(error) from error
        kept, dropped = [], False
        for line in whole_lines(self.path.read_bytes()):
            row = decode(line)
            if row is None or row["step"] > step:
                dropped = True
            else:
                kept.append(line)
        if not dropped:
            return
        aside = self.path.with_name(self.path.name + ".cut")
        try:
            with open(aside, "wb") as file:
                file.writelines(kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise self._storage_error(error) from error
        self.close()
        self._descriptor = self._open()

    def reopen(self) -> None:
        """Goes on in the file of this name, which another process has replaced."""
        self.close()
        self._descriptor = self._open()

    def close(self) -> None:
        """Close the file; it is on disk once the system writes back, and in every reader's sight already.

        Raises:
            StorageError: lines were held, and there still is no room for them.
        """
        if self._descriptor < 0:
            return
        try:
            self._write_held()
        except OSError as error:
            raise self._storage_error(error) from error
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except StorageError as lost:
            if error is None:
                raise
            _log.error("%s", lost)  # what ends the run already is the first cause

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _drop_torn_end(descriptor)
        except OSError as error:
            raise self._storage_error(error) from error
        return descriptor

    def _storage_error(self, error: OSError) -> StorageError:
        room = f" (needs {len(self._held)} bytes, {in_words(free_bytes(self.path))} free)" if self._held else ""
        return StorageError(f"cannot write {self.path}: {error.strerror or error}{room}", file=str(self.path),
                            do="free space or mend the disk, then run the same command again: it resumes")


def encode(row: Mapping[str, Any]) -> bytes:
    """One line: floats as their shortest exact form, non-finite numbers as null and named in `non_finite`."""
    wrong = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    line: dict[str, Any] = dict(row)
    if wrong:
        line |= dict.fromkeys(wrong) | {"non_finite": wrong}
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None if it is torn: not terminated, or not an object with a step."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def whole_lines(content: bytes) -> Iterator[bytes]:
    """Lines with their newline: only `\\n` ends one, unlike `bytes.splitlines`."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def _drop_torn_end(descriptor: int) -> None:
    """Shorten the file to its last newline."""
    size = os.fstat(descriptor).st_size
    end, block = size, 4096
    while end > 0:
        start = max(0, end - block)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
