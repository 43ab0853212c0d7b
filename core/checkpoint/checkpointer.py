"""Saves and resumes a run: what its ranks do together."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .folder import folder_name, hint_fault, remove_older, remove_staged, step_folders, whole_folders
from .fragment import Fragment
from .ranks import Ranks, not_shared
from .reader import Checkpoint, LoadReport
from .saving import commit, stage, staged_folder, write
from .strict_json import DamagedError
from .writer import entries_of

_log = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of a run, as one rank sees them. All ranks call `save` and `load_newest` together.

    Args:
        directory: `checkpoints/` of the run, on a file system that all ranks share.
        keep: how many whole checkpoints stay, at least 1.
        rank, world_size: this process, and how many there are.
        agree: True on every rank exactly if every rank passed True; no rank leaves before all have entered.
    """

    def __init__(self, directory: Path, *, keep: int, rank: int, world_size: int, agree: Callable[[bool], bool]) -> None:
        if keep < 1:
            raise ValueError(f"checkpoint.keep={keep} must be at least 1")
        self._directory = directory
        self._keep = keep
        self._ranks = Ranks(rank, world_size, agree)

    def save(
        self, *, step: int, samples_seen: int, config: Mapping[str, Any], extra: Mapping[str, Any], fragments: Iterable[Fragment]
    ) -> Path:
        """Save the state of all ranks; a folder of the same step is replaced.

        What was written is read back before it counts, and only then are older checkpoints removed. If a rank fails, every rank
        raises its error, nothing of the attempt stays, and the older checkpoints are as they were.

        Args:
            step, samples_seen: progress.
            config: what must agree when the run is resumed (rank 0's is saved).
            extra: small values beside the tensors: loss scale, the tracker's run id (rank 0's are saved).
            fragments: of this rank; over all ranks those with `write` cover every tensor exactly once.

        Returns:
            The folder.

        Raises:
            StorageError: a disk is full or fails, on some rank.
            CheckpointError: the ranks disagree, or their parts do not make a whole.
        """
        directory, rank = self._directory, self._ranks.rank
        leads = rank == 0

        def part() -> None:
            write(staged_folder(directory, step, rank), rank, entries_of(fragments), step=step, samples_seen=samples_seen)

        def whole() -> None:
            commit(staged_folder(directory, step, rank), self._ranks.world_size, step=step, config=config, extra=extra)

        try:
            self._ranks.together(directory, lambda: stage(directory, step) if leads else None)
            self._ranks.together(directory, part)
            self._ranks.together(directory, lambda: whole() if leads else None)
        except BaseException:
            if leads:
                with suppress(OSError):  # what stays is removed by the next save
                    remove_staged(directory)
            raise
        if leads:
            self._prune(directory / folder_name(step))
        return directory / folder_name(step)

    def open(self, folder: Path) -> Checkpoint:
        """The checkpoint in a folder.

        Raises:
            CheckpointError: there is none, it is damaged, or of another version.
        """
        return Checkpoint.open(folder)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are passed over with a warning. Blocks are checked when they are read."""
        self._check_hint(must=False)
        return next((Checkpoint(folder, manifest) for folder, manifest in whole_folders(self._directory)), None)

    def load_newest(
        self,
        fragments: Iterable[Fragment],
        *,
        must: bool = False,
        accept: Callable[[Checkpoint], None] = lambda checkpoint: None,
        names: Collection[str] | None = None,
    ) -> tuple[Checkpoint, LoadReport] | None:
        """Load the newest checkpoint of which every needed block is right, the same one on all ranks.

        Args:
            fragments: of this rank; all are filled.
            must: damage, or a wrong `latest`, is an error; otherwise an older checkpoint serves, with a warning.
            accept: raises CheckpointError if the run must not go on from this checkpoint, see `require_agreement`.
            names: as in `Checkpoint.load`.

        Returns:
            The checkpoint and what was read, or None where the folder holds no checkpoint at all.

        Raises:
            CheckpointError: on every rank, if one of them cannot go on; also where there are checkpoints but none is whole.
        """
        wanted = list(fragments)
        folders = step_folders(self._directory)
        if not self._ranks.same(_fingerprint(folders)):
            raise not_shared(self._directory, f"the ranks see different checkpoints ({', '.join(f.name for f in folders) or 'none'} here)")
        self._check_hint(must=must)
        for folder in folders[:1] if must else folders:
            loaded = self._try(folder, wanted, must=must, accept=accept, names=names)
            if loaded:
                return loaded
        if folders or must:
            what = "no whole checkpoint" if folders else "no checkpoint"
            raise CheckpointError(
                f"there is {what} in {self._directory}",
                do="restore one, or start anew with another run.name",
                file=str(self._directory),
            )
        return None

    def _try(
        self,
        folder: Path,
        fragments: list[Fragment],
        *,
        must: bool,
        accept: Callable[[Checkpoint], None],
        names: Collection[str] | None,
    ) -> tuple[Checkpoint, LoadReport] | None:
        """Load on all ranks; None on all where one of them met damage and an older checkpoint may serve."""
        loaded: tuple[Checkpoint, LoadReport] | None = None
        failure: CheckpointError | None = None
        try:
            checkpoint = Checkpoint.open(folder)
            accept(checkpoint)
            loaded = checkpoint, checkpoint.load(fragments, names=names)
        except CheckpointError as error:
            failure = error
        elsewhere = CheckpointError(f"another rank could not load {folder}", do="see the other ranks' logs", file=str(folder))
        if not self._ranks.agree(failure is None or (isinstance(failure, DamagedError) and not must)):
            raise failure or elsewhere
        if self._ranks.agree(failure is None):
            return loaded
        _log.warning("passing over a damaged checkpoint: %s", failure or elsewhere)
        return None

    def _check_hint(self, *, must: bool) -> None:
        """Only a hint: the newest whole folder counts, whatever `latest` says. But a wrong one shows that somebody was here."""
        fault = hint_fault(self._directory) if step_folders(self._directory) else None
        if fault and must:
            raise fault
        if fault:
            _log.warning("`latest` is of no use, going by the folders' names: %s", fault)

    def _prune(self, target: Path) -> None:
        try:
            gone = remove_older(self._directory, keep=self._keep, verified=target)
        except OSError as error:  # the new checkpoint is safe; one folder too many is no reason to stop
            _log.warning("an old checkpoint could not be deleted: %s", error)
            return
        if gone:
            _log.info("deleted %s", ", ".join(folder.name for folder in gone))


def _fingerprint(folders: list[Path]) -> int:
    """A number that differs between different lists of names."""
    names = "\n".join(folder.name for folder in folders)
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7], "big")
