"""Reads a file back from the disk after its commit, beside the training: only what came back as it was written lets older ones go."""

import os
import threading
from pathlib import Path

from ..errors import StorageError
from .blocks import verify_file
from .manifest import SavedFile
from .priority import lower_priority
from .storage import open_regular
from .strict_json import DamagedError


class Verification(threading.Thread):
    """One rank's file of a committed checkpoint, in a thread of the lowest priority.

    Args:
        folder: of the checkpoint.
        files: what this rank wrote: nothing, or one file.
    """

    def __init__(self, folder: Path, files: dict[str, SavedFile]) -> None:
        super().__init__(name=f"verification of {folder.name}", daemon=True)
        self.folder = folder
        self.failure: StorageError | None = None
        self.blocks = 0
        self._files = files
        self.start()

    def run(self) -> None:
        """Checks every block."""
        lower_priority()
        for name, saved in self._files.items():
            path = self.folder / name
            try:
                forget_cached(path)
                verify_file(path, saved, tick=self._count)
            except (DamagedError, OSError) as error:
                what = f"the disk does not return what was written: {error}"
                self.failure = StorageError(what, do="see dmesg, replace the disk", file=str(path))
            except Exception as error:  # a thread must not fail unseen
                what = f"{path} could not be checked: {type(error).__name__}: {error}"
                self.failure = StorageError(what, do="report this", file=str(path))

    def _count(self, size: int) -> None:
        self.blocks += 1

    @property
    def busy(self) -> bool:
        """Whether it goes on."""
        return self.is_alive()


def forget_cached(path: Path) -> None:
    """Drop a file's pages from the cache of this machine, so that a read asks the disk; they must be on it already."""
    handle = open_regular(path)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
