"""Saves and resumes a run: what its ranks do together."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .committer import Around, Committer
from .folder import folder_name, hint_fault, step_folders, whole_folders
from .fragment import Fragment
from .ranks import Ranks, not_shared
from .reader import Checkpoint, LoadReport
from .strict_json import DamagedError

_log = logging.getLogger(__name__)


def _nothing() -> None:
    return


class Checkpointer:
    """The checkpoints of a run, as one rank sees them. All ranks call its methods together, but for `votes`.

    Args:
        directory: `checkpoints/` of the run, on a file system that all ranks share.
        keep: how many whole checkpoints stay, at least 1.
        rank, world_size: this process, and how many there are.
        agree: True on every rank exactly if every rank passed True; no rank leaves before all have entered.
        fence: raises FolderInUseError where the run folder belongs to a newer attempt.
        tick: told of each block that is read or written.
        asynchronous: a save blocks only for a copy to host memory; another process writes.
    """

    def __init__(self, directory: Path, *, keep: int, rank: int, world_size: int, agree: Callable[[bool], bool],  # noqa: PLR0913
                 fence: Callable[[], None] = _nothing, tick: Callable[[], None] = _nothing, asynchronous: bool = False) -> None:
        if keep < 1:
            raise ValueError(f"checkpoint.keep={keep} must be at least 1")
        self._directory = directory
        self._ranks = Ranks(rank, world_size, agree)
        self._tick = tick
        self._committer = Committer(directory, self._ranks, Around(keep=keep, asynchronous=asynchronous, fence=fence, tick=tick))

    def save(
        self, *, step: int, samples_seen: int, config: Mapping[str, Any], extra: Mapping[str, Any], fragments: Iterable[Fragment]
    ) -> Path:
        """Save the state of all ranks; a folder of the same step is replaced.

        If a rank fails, every rank raises its error, nothing of the attempt stays, and the older checkpoints are as they were. What was
        committed is then read back beside the training, and only when all ranks have found it right are older ones removed: at a step's
        edge (`at_edge`), before the next save, or by `finish`, which must come last. An asynchronous save is committed there, too.

        Args:
            step, samples_seen: progress.
            config: what must agree when the run is resumed (rank 0's is saved).
            extra: small values beside the tensors: loss scale, the tracker's run id (rank 0's are saved).
            fragments: of this rank; over all ranks those with `write` cover every tensor exactly once.

        Returns:
            The folder.

        Raises:
            StorageError: a disk is full or fails, on some rank; also where the save before this one did.
            CheckpointError: the ranks disagree, or their parts do not make a whole.
            NonFiniteError: an element is NaN or infinite.
            FolderInUseError: the run folder belongs to a newer attempt.
        """
        self._committer.save(step=step, samples_seen=samples_seen, record={"config": config, "extra": extra}, fragments=fragments)
        return self._directory / folder_name(step)

    def expect(self, *, own: int, total: int) -> None:
        """How large a checkpoint will be: checked against the free space ahead of each save.

        Args:
            own, total: bytes that this rank, and all ranks, will write, about.
        """
        self._committer.expect(own=own, total=total)

    def together(self, action: Callable[[], None]) -> None:
        """Do something on every rank that may fail; if it does on one, every rank raises that rank's error."""
        self._ranks.together(self._directory, action)

    @property
    def writing(self) -> bool:
        """Whether a save is still being written by the other processes."""
        return self._committer.writing

    @property
    def committed(self) -> Path | None:
        """The folder that was committed last."""
        return self._committer.committed

    @property
    def verified(self) -> Path | None:
        """The folder that was last read back and found right on all ranks."""
        return self._committer.verified

    def votes(self) -> list[float]:
        """For the next step's edge: whether this rank is busy with a save, and whether its part has failed."""
        return [float(self._committer.busy()), float(self._committer.failed())]

    def at_edge(self, busy: float, failed: float) -> None:
        """A step's edge: commits, checks and removes what the ranks agree on. Errors as `save`.

        Args:
            busy, failed: the votes, summed over all ranks.
        """
        self._committer.at_edge(busy=busy > 0, failed=failed > 0)

    def finish(self) -> None:
        """Wait until the last save is committed and verified, and older ones are gone. Errors as `save`."""
        self._committer.finish()

    def close(self) -> None:
        """End the process that writes; call `finish` first, or lose what it has not committed."""
        self._committer.close()

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
            loaded = checkpoint, checkpoint.load(fragments, names=names, tick=self._tick)
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


def _fingerprint(folders: list[Path]) -> int:
    """A number that differs between different lists of names."""
    names = "\n".join(folder.name for folder in folders)
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7], "big")
