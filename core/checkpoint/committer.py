"""Checkpoints from the live state to verified files: written now or beside the training, committed, read back, older ones let go."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StorageError
from .folder import discard, folder_name, remove_older, remove_staged, staged_folders
from .fragment import Fragment
from .helper import Helper, HostBuffer
from .manifest import SavedFile
from .parts import data_name
from .progress import ticking_while_growing
from .ranks import Ranks
from .saving import RankFile, commit, stage, staged_folder, write
from .storage import in_words
from .verification import Verification
from .writer import BlockBuffer, Image, entries_of

HEADER_ROOM = 2**22  # bytes beside the elements, in a host buffer that is made before the first save
LOOK_SECONDS = 0.02
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What stands around a save.

    Args:
        keep: whole checkpoints that stay.
        asynchronous: written by another process.
        fence: raises FolderInUseError where the run folder belongs to a newer attempt.
        tick: told of progress.
    """

    keep: int
    asynchronous: bool
    fence: Callable[[], None]
    tick: Callable[[], None]


class Committer:
    """One rank's part in the run's saves. All ranks call the same methods at the same steps.

    A save has two acts that go on beside the training: the writing, where it is asynchronous, and the reading back. Each act ends at a
    step's edge, for all ranks at once, when no rank is busy with it any more.

    Args:
        directory: of the checkpoints.
        ranks: all of them.
        around: what stands around a save.
    """

    def __init__(self, directory: Path, ranks: Ranks, around: Around) -> None:
        self._directory, self._ranks, self._around = directory, ranks, around
        self._need = 0
        self._reserve = 0
        self._helper: Helper | None = None
        self._writing: Path | None = None  # the folder that the worker will commit
        self._checking: Verification | None = None
        self.committed: Path | None = None
        self.verified: Path | None = None

    def expect(self, *, own: int, total: int) -> None:
        """How large a checkpoint will be.

        Args:
            own, total: bytes that this rank, and all ranks, will write, about.
        """
        self._need, self._reserve = total, own

    def save(self, *, step: int, samples_seen: int, record: Mapping[str, Any], fragments: Iterable[Fragment]) -> None:
        """As `Checkpointer.save`; `record` is its config and extra."""
        self.finish()
        image = Image(entries_of(fragments))
        has_elements = image.size > len(image.header)
        folder = self._directory / folder_name(step)
        name = data_name(self._ranks.rank)
        file = RankFile(rank=self._ranks.rank, step=step, samples_seen=samples_seen, size=image.size if has_elements else 0,
                        tensors=tuple(image.tensors(name)), floats=image.floats())
        try:
            self._together(lambda: self._stage(step))
            if self._around.asynchronous:
                self._together(lambda: self._hand_over(image, file, record))
                self._writing = folder
                return
            files = self._write_all(image, file, record)
        except BaseException:
            self._abandon()
            raise
        self._commit_done(folder, files)

    @property
    def writing(self) -> bool:
        """Whether a save is still being written."""
        return self._writing is not None

    def busy(self) -> bool:
        """Whether this rank has not yet done its part of the current act."""
        helper = self._helper
        return (self._writing is not None and helper is not None and helper.busy) or (self._checking is not None and self._checking.busy)

    def failed(self) -> bool:
        """Whether its part has failed."""
        return self._failure() is not None

    def at_edge(self, *, busy: bool, failed: bool) -> None:
        """Go on to the next act, where the ranks agree that this one is over.

        Args:
            busy, failed: whether any rank is.

        Raises:
            StorageError, NonFiniteError, CheckpointError, FolderInUseError: on every rank, where one has failed.
        """
        if failed:
            self._fail()
        if busy:
            return
        if self._writing is not None:
            assert self._helper is not None
            folder, self._writing = self._writing, None
            self._commit_done(folder, self._helper.files)
        elif self._checking is not None:
            self.verified, self._checking = self._checking.folder, None
            self._prune(self.verified)

    def finish(self) -> None:
        """Wait for what goes on, all ranks together, until the last act is over. Errors as `at_edge`."""
        while self._writing is not None or self._checking is not None:
            self.at_edge(busy=False, failed=self._await_all())

    def close(self) -> None:
        """End the worker; what it has not committed does not count."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def _together(self, action: Callable[[], None]) -> None:
        with ticking_while_growing(self._staged, self._around.tick):
            self._ranks.together(self._directory, action)

    def _stage(self, step: int) -> None:
        self._around.fence()
        if self._ranks.rank == 0:
            stage(self._directory, step, need=self._need)

    def _staged(self) -> Path | None:
        with suppress(OSError):
            return next(iter(staged_folders(self._directory)), None)
        return None

    def _write_all(self, image: Image, file: RankFile, record: Mapping[str, Any]) -> dict[str, SavedFile]:
        """The synchronous save: every rank's part, then the commit; returns this rank's file."""
        directory, rank = self._directory, self._ranks.rank
        files: dict[str, SavedFile] = {}

        def part() -> None:
            staged = staged_folder(directory, file.step, rank)
            files.update(write(staged, file, BlockBuffer(image).block, self._around.tick))

        def whole() -> None:
            if rank == 0:
                self._around.fence()
                commit(staged_folder(directory, file.step, rank), self._ranks.world_size, step=file.step, **record)

        self._together(part)
        self._together(whole)
        return files

    def _hand_over(self, image: Image, file: RankFile, record: Mapping[str, Any]) -> None:
        """The asynchronous save: a copy, and a word to the worker."""
        staged = staged_folder(self._directory, file.step, self._ranks.rank)
        helper = self._ready_helper(image)
        helper.begin(image, file, staged, world_size=self._ranks.world_size, record=record if self._ranks.rank == 0 else {})

    def _ready_helper(self, image: Image) -> Helper:
        """A living worker whose buffer is large enough."""
        if self._helper is not None and (self._helper.buffer.size < image.size or not self._helper.alive):
            self.close()
        if self._helper is None:
            size = max(image.size, self._reserve + HEADER_ROOM)
            _log.info("a host buffer of %s for asynchronous saves", in_words(size))
            buffer = HostBuffer(size, pinned=image.on_device, tick=self._around.tick)
            self._helper = Helper(buffer, fence=self._around.fence, rank=self._ranks.rank)
        return self._helper

    def _commit_done(self, folder: Path, files: dict[str, SavedFile]) -> None:
        self.committed = folder
        self._checking = Verification(folder, files)

    def _await_all(self) -> bool:
        """Until no rank is busy, or one has failed, which it returns. Whenever any rank moves on, all show a sign of life."""
        agree, seen = self._ranks.agree, -1
        while True:
            if not agree(not self.failed()):
                return True
            if agree(not self.busy()):
                return False
            progress = self._progress()
            moved, seen = progress != seen, progress
            if not agree(not moved):
                self._around.tick()
            time.sleep(LOOK_SECONDS)

    def _progress(self) -> int:
        if self._checking is not None:
            return self._checking.blocks
        return 0 if self._helper is None else self._helper.ticks

    def _failure(self) -> Exception | None:
        if self._writing is not None and self._helper is not None:
            return self._helper.failure
        return None if self._checking is None else self._checking.failure

    def _fail(self) -> None:
        """Raise what failed, on every rank; the older checkpoints stay as they are."""
        failure, folder = self._failure(), None if self._checking is None else self._checking.folder
        rank = self._ranks.rank

        def speak() -> None:
            if failure is not None:
                if folder is not None:  # a place for word to the other ranks, cleared away by the next save
                    (self._directory / f".{folder.name}.unverified-{rank}.tmp").mkdir(exist_ok=True)
                raise failure

        try:
            self._together(speak)
        finally:
            self._abandon()
            if folder is not None and rank == 0:
                with suppress(OSError):
                    discard(self._directory, folder)
        raise StorageError("a rank's save has failed, and it no longer says why", do="see the logs of all ranks", file=str(self._directory))

    def _abandon(self) -> None:
        """Nothing of the current save stays; what cannot be removed now is removed by the next one."""
        self._writing = self._checking = None
        self.close()
        if self._ranks.rank == 0:
            with suppress(OSError):
                remove_staged(self._directory)

    def _prune(self, verified: Path) -> None:
        if self._ranks.rank != 0:
            return
        try:
            gone = remove_older(self._directory, keep=self._around.keep, verified=verified)
        except OSError as error:  # the new checkpoint is safe; one folder too many is no reason to stop
            _log.warning("an old checkpoint could not be deleted: %s", error)
            return
        if gone:
            _log.info("deleted %s", ", ".join(folder.name for folder in gone))
