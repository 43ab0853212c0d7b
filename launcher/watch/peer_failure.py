"""Whether another rank of this attempt has failed: what the watchers of one run tell each other by `exit.json`."""

import json
from contextlib import suppress
from pathlib import Path

from ...core.errors import Preempted
from ..outcome import FILE_NAME


class PeerFailure:
    """Asked again and again by a watcher whose own rank still runs.

    Args:
        directory: of the run, on a file system that all hosts share. What lies there now is of an earlier attempt.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._before = self._identity()

    def __call__(self) -> bool:
        """Whether `exit.json` is new and tells a failure; a rank that was preempted has saved, as the others have."""
        identity = self._identity()
        if identity is None or identity == self._before:
            return False
        with suppress(OSError, ValueError):
            told = json.loads(self._path.read_text())
            return isinstance(told, dict) and told.get("code") not in (0, Preempted.exit_code)
        return False

    def _identity(self) -> tuple[int, int] | None:
        """Inode and time of change: no clock of this host is asked."""
        with suppress(OSError):
            status = self._path.stat()
            return status.st_ino, status.st_mtime_ns
        return None
