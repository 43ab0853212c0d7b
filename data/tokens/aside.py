"""Files in the making, beside their final name."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ..errors import DataError


class AsideFile:
    """A file under `<final>.writing`, locked; the name is fixed, so that what a killed run left is overwritten, not kept for ever.

    Args:
        final: its name in the end.
        size: bytes to keep of what an interrupted run left, under whichever of the two names.
    """

    def __init__(self, final: Path, size: int = 0) -> None:
        self.final = final
        self.path = final.with_name(f"{final.name}.writing")
        if size and not self.path.exists() and final.exists():
            final.rename(self.path)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        self.stream = os.fdopen(descriptor, "r+b", buffering=2**16)  # what is larger goes to the file without a copy
        try:
            self._lock(descriptor)
            if os.fstat(descriptor).st_size < size:
                raise DataError(f"{self.path} is shorter than the {size} bytes that were written", do="write it anew", file=self.path)
            self.stream.truncate(size)
        except BaseException:
            self.stream.close()
            raise

    def sync(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def commit(self) -> None:
        self.path.replace(self.final)
        self.stream.close()

    def discard(self, *, keep: bool = False) -> None:
        if not self.stream.closed:
            if not keep:
                self.path.unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk the last flush fails again; the file is gone already
                self.stream.close()

    def _lock(self, descriptor: int) -> None:
        busy = DataError(f"another process is writing {self.final}", do="wait for it, or choose another output", file=self.final)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            return  # a file system without locks: rely on the user not to write twice at once
        # between our open and our lock the other one may have finished: then our descriptor is its finished file
        if not self.path.exists() or self.path.stat().st_ino != os.fstat(descriptor).st_ino:
            raise busy
