"""What a watcher does about the run folder's lock: takes it for rank 0, and afterwards knows whether the folder is still this attempt's."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import FolderInUseError, MissingRankError, Preempted
from ..environment import Environment
from ..outcome import SIGNAL_CODE, Outcome, outcome_of, reason_of
from .fence import Fence
from .folder_lock import FolderLock

NOBODY_CAME = reason_of(MissingRankError("", do=""))  # rank 0 had its time already
LOCK_SECONDS = 3.0  # for rank 0's watcher to take the lock, where another rank ends before


@contextmanager
def occupied(directory: Path, environment: Environment) -> Iterator[FolderLock | None]:
    """Holds the run folder for rank 0; for the other ranks rank 0 does. Nothing in the folder may be touched before.

    Args:
        directory: of the run.
        environment: this process's place.

    Raises:
        FolderInUseError: it belongs to another run.
        StorageError: it cannot be locked.
    """
    if environment.rank != 0:
        yield None
        return
    lock = FolderLock.take(directory, attempt=environment.membership.attempt)
    environment.membership.admit(lock.token)
    try:
        if lock.message:
            sys.stderr.write(f"WARNING: {lock.message}\n")
        yield lock
    finally:
        lock.release()


def standing(outcome: Outcome, directory: Path, environment: Environment) -> Outcome:
    """How a rank ended, in view of whose folder it is now: an attempt that has lost it ends with 8, whatever that led to.

    Args:
        outcome: of the rank.
        directory: of the run.
        environment: its place.
    """
    membership = environment.membership
    if not membership.token:  # it has not met rank 0
        deadline = time.monotonic() + LOCK_SECONDS
        waits = outcome.code != 0 and outcome.reason != NOBODY_CAME
        while waits and not membership.owns(directory) and time.monotonic() < deadline:
            time.sleep(0.05)
    elif not membership.owns(directory):
        try:
            Fence(directory, membership.token)()
        except FolderInUseError as error:
            return outcome_of(error).at(rank=environment.rank, step=outcome.step)
    return outcome


def speaks_without_folder(outcome: Outcome) -> bool:
    """Whether a rank says on stderr how it ended, where no exit.json can tell who was first.

    A refused attempt speaks by rank 0; where rank 0 never came, rank 1 speaks. Who was only told to stop is silent.
    """
    told_to_stop = outcome.code in (0, Preempted.exit_code) or outcome.code > SIGNAL_CODE
    return not told_to_stop and (outcome.rank == 0 or (outcome.rank == 1 and outcome.code != FolderInUseError.exit_code))
