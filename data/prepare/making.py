"""The output folder of a `prepare` and the staging folder in it, from their opening to the commit: alike for text and fine-tuning data."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..clean.report import CleanReport
from ..errors import DataError
from ..sources.find import Source, find_sources
from ..tokens.description import FILE_NAME, CorpusDescription, parse_description
from .corpus_folder import REJECTS, REPORTS, SPOOL, STAGING, commit, locked, movable, write_record
from .journal import Journal, StagingDamaged
from .progress import Progress
from .refusal import Unusable

_MOVING = "moving"


@dataclass(frozen=True)
class Made:
    """What the passes have made, beside the files in the staging folder.

    Args:
        description: for `corpus.json`.
        counts: of its making, plain values, for whoever finds the corpus later.
        report: of the cleaning, if there was any, and it was not left by an earlier call.
    """

    description: CorpusDescription
    counts: dict[str, Any]
    report: CleanReport | None = None


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """The output folder, for this process alone; gone again if it is new and stays empty.

    Raises:
        DataError: another one is at work there, or it cannot be made.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"output={folder} cannot be made a folder: {error.strerror}"
        raise DataError(message, do="choose another output, or mend the path and its permissions", file=folder) from error
    with locked(folder):
        try:
            yield
        finally:
            shutil.rmtree(folder / SPOOL, ignore_errors=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()


def input_sources(inputs: Sequence[str | dict[str, Any]], folder: Path, progress: Progress) -> list[Source]:
    """The input files; what comes from stdin is laid into the output folder first.

    Raises:
        DataError: there is none.
    """
    spool = folder / SPOOL
    if any((entry.get("path") if isinstance(entry, dict) else entry) == "-" for entry in inputs):
        progress.phase("reading stdin", 0)
        spool.mkdir(exist_ok=True)
    found = find_sources(inputs, left_out=folder, spool=spool)
    if found.left_out:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(found.left_out.items()))
        progress.note(f"files of folders that are left out: {causes}")
    return found.sources


class Making:
    """The staging folder; use it as a context manager: what a later call cannot go on from is removed.

    Args:
        folder: the output folder, see `own_folder`.
        record: inputs and recipe, from `input_record`.
        progress: is told what happens.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], progress: Progress) -> None:
        self._folder = folder
        self._staging = folder / STAGING
        self._record = record
        self._progress = progress
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._journal is None or self._journal.is_empty:
            self._discard()
        else:
            self._progress.note(f"stopped; what is done is kept in {self._staging}, and the same command goes on from there")

    def run(self, passes: Callable[[Journal], Made]) -> Made:
        """Goes on where an earlier call was interrupted, or begins; at the end all files move to their place.

        Args:
            passes: makes what the journal does not have yet, in the staging folder.

        Raises:
            DataError: what `passes` raises; for what is `Unusable` nothing is kept but what tells why.
        """
        try:
            return self._run(self._open(), passes)
        except StagingDamaged as damage:
            self._progress.note(f"what an interrupted prepare left cannot be used, {damage}: beginning anew")
            self._discard()
            return self._run(self._open(), passes)
        except Unusable:
            self._leave_what_tells_why()
            self._discard()
            raise

    def _leave_what_tells_why(self) -> None:
        """The list of rejects and the report of the cleaning; a report beside a corpus that stays is that corpus's own, and stays, too."""
        for name in (REJECTS, *REPORTS):
            kept = name in REPORTS and (self._folder / FILE_NAME).exists()
            if not kept and (self._staging / name).exists() and (self._staging / name).stat().st_size:
                os.replace(self._staging / name, self._folder / name)

    def _run(self, journal: Journal, passes: Callable[[Journal], Made]) -> Made:
        report = None
        if journal.result(_MOVING) is None:
            made = passes(journal)
            report = made.report
            write_record(self._staging, self._record, made.counts)
            # The last entry of the journal: from here on, files only move.
            moving = {"description": asdict(made.description), "counts": made.counts, "files": movable(self._staging)}
            journal.finish(_MOVING, moving)
        moving = journal.result(_MOVING)
        description = parse_description(moving["description"])
        commit(self._staging, self._folder, description, moving["files"])
        self._discard()
        return Made(description, moving["counts"], report)

    def _open(self) -> Journal:
        self._staging.mkdir(exist_ok=True)
        journal = Journal(self._staging, self._record)
        if not journal.is_empty:
            self._progress.note("going on where an interrupted prepare was")
        elif any(self._staging.iterdir()):
            if journal.why_anew:
                self._progress.note(f"what an interrupted prepare left cannot be used, {journal.why_anew}: beginning anew")
            shutil.rmtree(self._staging)
            self._staging.mkdir()
        self._journal = journal
        return journal

    def _discard(self) -> None:
        self._journal = None
        shutil.rmtree(self._staging, ignore_errors=True)
