"""Errors that end a run, each with its exit code (DESIGN.md 2.4). Pure: imports nothing."""


class RunError(Exception):
    """A failure the user can act on.

    Args:
        message: what happened, with the values.
        do: the way out, one clause.
        file: the file it is about, if any.
    """

    exit_code = 1

    def __init__(self, message: str, *, do: str, file: str | None = None) -> None:
        super().__init__(message)
        self.do = do
        self.file = file


class CheckpointError(RunError):
    """A checkpoint is damaged, missing, or of another run."""

    exit_code = 4


class PeerError(RunError):
    """Another rank was lost or hung."""

    exit_code = 5


class MissingRankError(PeerError):
    """A rank has not come to the meeting: that is a first cause, not the echo of one."""


class NonFiniteError(RunError):
    """The loss or a gradient is not finite."""

    exit_code = 6


class DriftError(RunError):
    """Copies that must be equal on several ranks are not."""

    exit_code = 6


class StorageError(RunError):
    """A disk is full, read-only or failing."""

    exit_code = 7


class FolderInUseError(RunError):
    """The run folder belongs to another live run, or to one that must not be continued."""

    exit_code = 8


class PortError(RunError):
    """A port is taken, or the ranks did not find each other."""

    exit_code = 9


class Preempted(RunError):
    """Asked to stop from outside; everything is saved, please requeue."""

    exit_code = 75
