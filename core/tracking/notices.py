"""What the follower says to the person who started the run."""

import contextlib
import time
from typing import TextIO

QUIET_SECONDS = 60.0


class Notices:
    """Prints to the run's standard error; warnings come at most once a minute, the rest goes to the follower's own log.

    Args:
        person: where a person reads.
        log: the follower's log file.
    """

    def __init__(self, person: TextIO, log: TextIO) -> None:
        self._person, self._log = person, log
        self._last_warning = -QUIET_SECONDS

    def warn(self, message: str) -> None:
        """Something is wrong with tracking; the run itself is well."""
        now = time.monotonic()
        self._write(self._log, f"warning: {message}")
        if now - self._last_warning >= QUIET_SECONDS:
            self._last_warning = now
            self._write(self._person, f"WARNING tracking: {message} (training goes on)")

    def tell(self, message: str) -> None:
        """Something worth knowing, said once."""
        self._write(self._log, message)
        self._write(self._person, message)

    def _write(self, stream: TextIO, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more; that may not end the follower
            print(message, file=stream, flush=True)
