"""How the ranks of a run act as one: all succeed, or all raise the same error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, RunError, StorageError
from .folder import staged_folders
from .parts import note_failure, noted_failure
from .storage import free_bytes, in_words, storage_error

NUMBER_BITS = 60  # a step fits into a folder name of 18 digits


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others.

    Args:
        rank, world_size: which one, of how many.
        agree: True on every rank exactly if every rank passed True; no rank leaves before all have entered.
    """

    rank: int
    world_size: int
    agree: Callable[[bool], bool]

    def same(self, number: int) -> bool:
        """Whether all ranks hold the same number; bit by bit, because a truth is all they can agree on here."""
        bits = [bool(number >> bit & 1) for bit in range(NUMBER_BITS)]
        alike = [self.agree(bit) == bit for bit in bits]  # a rank with a 1 sees that another has a 0
        return self.agree(all(alike))

    def together(self, directory: Path, action: Callable[[], None]) -> None:
        """Do something on every rank; if it fails on one, every rank raises that rank's error.

        Args:
            directory: of the checkpoints; the save under way there carries word of a failure.
            action: this rank's part.

        Raises:
            StorageError, CheckpointError: as on the lowest rank that failed.
        """
        failure: Exception | None = None
        try:
            action()
        except OSError as error:
            failure = storage_error(error, Path(error.filename or directory))
        except Exception as error:  # whatever it is must reach the other ranks, or they wait for ever
            failure = error
        if failure:
            for staged in _reachable(directory):
                note_failure(staged, self.rank, failure)
        if self.agree(failure is None):
            return
        told = next(filter(None, map(noted_failure, _reachable(directory))), None)
        self.agree(True)  # nobody clears the notes away before all have read them
        if failure and not isinstance(failure, RunError):
            raise failure
        raise told or failure or self._untold(directory) from failure

    def _untold(self, directory: Path) -> StorageError:
        """A failed rank could not even leave word: its disk takes nothing more."""
        return StorageError(
            f"another rank could not write to {directory} ({in_words(free_bytes(directory))} free on rank {self.rank})",
            do="see the other ranks' logs; free space, or set run.directory to a disk that works",
            file=str(directory),
        )


def _reachable(directory: Path) -> list[Path]:
    """The save under way, if the disk still answers; while failing, nothing may keep this rank from telling the others."""
    try:
        return staged_folders(directory)
    except OSError:
        return []


def not_shared(directory: Path, what: str) -> CheckpointError:
    """The ranks do not look at the same folder."""
    return CheckpointError(f"{what} in {directory}", do="put run.directory on a file system that all nodes share", file=str(directory))
