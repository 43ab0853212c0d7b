"""Which attempt at a run a process belongs to: what decides whether it may write into the run's folder."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from .lock_record import FILE_NAME, read_holder


@dataclass(frozen=True)
class Membership:
    """Made by a watcher before it forks its rank, and shared by the two.

    Args:
        attempt: the same for all ranks of this attempt and, as far as their front end lets us tell, for no others. Before the ranks have
            met it is all that a rank but 0 knows.
    """

    attempt: str = field(default_factory=lambda: token_hex(8))
    _page: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, mmap.PAGESIZE), repr=False, compare=False)
    _waiting: list[Callable[[], None]] = field(default_factory=list, repr=False, compare=False)

    def admit(self, token: str) -> None:
        """This process belongs to the attempt that holds the folder; what waited for that is done now.

        Args:
            token: of that attempt, from its lock.
        """
        self._page[: len(token)] = token.encode()
        while self._waiting:
            self._waiting.pop(0)()

    def when_admitted(self, action: Callable[[], None]) -> None:
        """Puts off what writes into the folder.

        Args:
            action: called by `admit`, in the same process.
        """
        self._waiting.append(action)

    @property
    def token(self) -> str:
        """Of the attempt; empty until the ranks have met."""
        return self._page[: mmap.PAGESIZE].rstrip(b"\0").decode()

    def owns(self, directory: Path) -> bool:
        """Whether a run folder is held by this attempt, so that this process may write into it.

        Args:
            directory: of the run. A lock that somebody removed belongs to nobody else yet.
        """
        try:
            found = read_holder(directory / FILE_NAME)
        except FileNotFoundError:
            return bool(self.token)
        except OSError:
            return False
        if found is None:
            return False
        return found.token == self.token if self.token else found.attempt == self.attempt

    def port(self, directory: Path) -> int | None:
        """Where rank 0 of this attempt listens, by its lock; None where the lock does not say."""
        try:
            found = read_holder(directory / FILE_NAME)
        except OSError:
            return None
        return found.port or None if found is not None and found.attempt == self.attempt else None


def seen_token(directory: Path) -> str:
    """Of the attempt that holds a run folder, as this host sees it; empty where it sees none."""
    try:
        found = read_holder(directory / FILE_NAME)
    except OSError:
        return ""
    return "" if found is None else found.token
