"""Saves as the training loop sees them: what a disk refuses now is tried again at the next interval, and not for ever."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .checkpoint.checkpointer import Checkpointer
from .checkpoint.fragment import Fragment
from .errors import StorageError
from .step_log import StepLog

MOST_FAILURES = 3  # in a row
_log = logging.getLogger(__name__)


class Saver:
    """One rank's saves. All ranks call the same methods at the same steps.

    Args:
        checkpointer: of the run.
        tell: shows a line on the console; None but on rank 0.
        logs: this rank's step logs: no checkpoint is committed before their lines are on the disk.
    """

    def __init__(self, checkpointer: Checkpointer, *, tell: Callable[[str], None] | None, logs: Sequence[StepLog]) -> None:
        self._checkpointer, self._tell, self._logs = checkpointer, tell, logs
        self._shown = checkpointer.committed
        self._failures = 0

    def votes(self) -> list[float]:
        """For the next step's edge."""
        return self._checkpointer.votes()

    def after_step(self, sums: Sequence[float]) -> None:
        """A step's edge: what was written beside the training is committed, checked, or has failed.

        Args:
            sums: the votes, summed over all ranks.

        Raises:
            StorageError: for the third time in a row.
            NonFiniteError, CheckpointError, FolderInUseError: nothing to try again.
        """
        busy, failed = sums
        self._tolerated(lambda: self._checkpointer.at_edge(busy, failed), must=False)

    def save(
        self, *, step: int, samples_seen: int, config: Mapping[str, Any], extra: Mapping[str, Any], fragments: Iterable[Fragment],
        must: bool,
    ) -> bool:
        """Save, now or (asynchronously) beside the next steps.

        Args:
            step, samples_seen, config, extra, fragments: as `Checkpointer.save`.
            must: the run ends here: wait until it is whole and verified, and a failure is an error at once.

        Returns:
            Whether it is saved, or on its way.

        Raises:
            StorageError: it must succeed, or failed for the third time in a row.
            NonFiniteError, CheckpointError, FolderInUseError: nothing to try again.
        """

        def attempt() -> None:
            self._checkpointer.together(self._flush_logs)
            self._checkpointer.save(step=step, samples_seen=samples_seen, config=config, extra=extra, fragments=fragments)
            if must:
                self._checkpointer.finish()

        if self._checkpointer.writing and not must:
            self._show(f"WARNING: the save of step {step} waits for the one before it: raise checkpoint.interval, or use a faster disk")
        self.settle(spare=must)
        return self._tolerated(attempt, must=must)

    def settle(self, *, spare: bool = False) -> None:
        """Wait for the save before this one; it may fail as in `after_step`, or in any number where it is spared."""
        self._tolerated(self._checkpointer.finish, must=False, spare=spare)

    def finish(self) -> None:
        """The run's end: everything is committed and verified, older checkpoints are gone. Errors as `save`."""
        self._tolerated(self._checkpointer.finish, must=True)

    def _flush_logs(self) -> None:
        for log in self._logs:
            log.flush()

    def _tolerated(self, action: Callable[[], None], *, must: bool, spare: bool = False) -> bool:
        """Whether an action succeeds; a failing disk is an error where it must, or (unless spared) after too many failures in a row."""
        verified = self._checkpointer.verified
        try:
            action()
        except StorageError as error:
            self._failures += 1
            if must or (self._failures >= MOST_FAILURES and not spare):
                raise
            self._warn(error)
            return False
        if self._checkpointer.verified != verified:
            self._failures = 0
        if self._checkpointer.committed != self._shown:
            self._shown = self._checkpointer.committed
            self._show(f"checkpoint {self._shown}")
        return True

    def _warn(self, error: StorageError) -> None:
        left = f"failure {self._failures} of {MOST_FAILURES} in a row, tried again at the next interval"
        _log.warning("NOT SAVED: %s (%s; do: %s)", error, left, error.do)
        self._show(f"WARNING: NOT SAVED: {error} ({left}; do: {error.do})")

    def _show(self, line: str) -> None:
        if self._tell is not None:
            self._tell(line)
