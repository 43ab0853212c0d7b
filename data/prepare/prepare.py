"""Raw text to a corpus folder: the same bytes for any number of workers, in constant memory, and complete or not there at all."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..clean.report import CleanReport
from ..sources.find import Source, file_source, find_sources
from ..tokenizer.tokenizer import TRAINED_KINDS, model_file
from ..tokens.description import FILE_NAME, CorpusDescription, parse_description
from .corpus_folder import REJECTS, REPORTS, SPOOL, STAGING, commit, finished, input_record, locked, movable, write_record
from .journal import Journal, StagingDamaged
from .passes import PassRunner
from .preparation import Outcome, Preparation
from .progress import NoProgress, Progress
from .recipe import Recipe
from .refusal import Unusable
from .tally import Tally

__all__ = ["NoProgress", "Prepared", "Progress", "Recipe", "prepare"]

JOURNAL_SECONDS = 5.0  # of work that an interruption may cost
_MOVING = "moving"


@dataclass(frozen=True)
class Prepared:
    """A corpus folder, and what its making has counted.

    Args:
        folder: the corpus.
        description: what is in it.
        tally: what the input held.
        reused: it was there already, from the same input and recipe.
        report: what cleaning did, where this call has cleaned.
    """

    folder: Path
    description: CorpusDescription
    tally: Tally
    reused: bool
    report: CleanReport | None = None


def prepare(
    inputs: Sequence[str | dict[str, Any]],
    output: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    journal_seconds: float = JOURNAL_SECONDS,
) -> Prepared:
    """Makes a corpus folder. Interrupted at any point, it leaves no corpus, and the next call goes on from there.

    Args:
        inputs: files, folders, globs, or `python_stdlib`; see `find_sources`.
        output: the folder; new, empty, or an earlier corpus.
        recipe: what to make of it.
        workers: processes; 0: one for each core. The output does not depend on it.
        overwrite: replace another corpus at `output`; it stays until the new one is complete.
        progress: is told how far it is.
        journal_seconds: work that is done again after an interruption.

    Raises:
        DataError: input missing, damaged or empty, too many bad records, something else at `output`, a dead worker.
    """
    folder = Path(output).expanduser()
    progress = progress or NoProgress()
    also_read = _also_read(recipe)
    with _own_folder(folder):
        sources = _sources(inputs, folder, progress)
        record = input_record(sources, asdict(recipe), also_read)
        if found := finished(folder, record, overwrite=overwrite):
            shutil.rmtree(folder / STAGING, ignore_errors=True)  # of a prepare that was killed after its last act
            description, counts = found
            return Prepared(folder, description, Tally(**counts), reused=True)
        making = _Making(folder, record, progress)
        try:
            return making.run(sources, recipe, workers or len(os.sched_getaffinity(0)), journal_seconds)
        finally:
            making.tidy()


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """The output folder, for this process alone; gone again if it is new and stays empty."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        try:
            yield
        finally:
            shutil.rmtree(folder / SPOOL, ignore_errors=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()


def _sources(inputs: Sequence[str | dict[str, Any]], folder: Path, progress: Progress) -> list[Source]:
    spool = folder / SPOOL
    if any((entry.get("path") if isinstance(entry, dict) else entry) == "-" for entry in inputs):
        progress.phase("reading stdin", 0)
        spool.mkdir(exist_ok=True)
    found = find_sources(inputs, left_out=folder, spool=spool)
    if found.left_out:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(found.left_out.items()))
        progress.note(f"files of folders that are left out: {causes}")
    return found.sources


class _Making:
    """The staging folder, from its opening to the commit."""

    def __init__(self, folder: Path, record: Mapping[str, Any], progress: Progress) -> None:
        self._folder = folder
        self._staging = folder / STAGING
        self._record = record
        self._progress = progress
        self._journal: Journal | None = None

    def run(self, sources: Sequence[Source], recipe: Recipe, workers: int, seconds: float) -> Prepared:
        """Goes on where an earlier call was interrupted, or begins."""
        try:
            return self._run(self._open(), sources, recipe, workers, seconds)
        except StagingDamaged as damage:
            self._progress.note(f"what an interrupted prepare left cannot be used, {damage}: beginning anew")
            self._discard()
            return self._run(self._open(), sources, recipe, workers, seconds)
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

    def tidy(self) -> None:
        """Removes the staging folder, unless a later call can go on from it."""
        if self._journal is None or self._journal.is_empty:
            self._discard()
        else:
            self._progress.note(f"stopped; what is done is kept in {self._staging}, and the same command goes on from there")

    def _run(self, journal: Journal, sources: Sequence[Source], recipe: Recipe, workers: int, seconds: float) -> Prepared:
        report = None
        if journal.result(_MOVING) is None:
            runner = PassRunner(journal, workers=workers, progress=self._progress, seconds=seconds)
            outcome = Preparation(sources, recipe, self._staging, journal, runner, self._progress).run()
            self._complete(journal, outcome)
            report = outcome.report
        moving = journal.result(_MOVING)
        description = parse_description(moving["description"])
        commit(self._staging, self._folder, description, moving["files"])
        self._discard()
        return Prepared(self._folder, description, Tally(**moving["tally"]), reused=False, report=report)

    def _complete(self, journal: Journal, outcome: Outcome) -> None:
        """The last entry of the journal: from here on, files only move."""
        write_record(self._staging, self._record, asdict(outcome.tally))
        moving = {"description": asdict(outcome.description), "tally": asdict(outcome.tally), "files": movable(self._staging)}
        journal.finish(_MOVING, moving)

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


def _also_read(recipe: Recipe) -> list[Source]:
    """Files besides the input that decide the corpus."""
    files = list(recipe.clean.files)
    if recipe.tokenizer_kind not in TRAINED_KINDS:
        files.append(str(model_file(Path(recipe.tokenizer_path).expanduser())))
    return [file_source(Path(file).expanduser()) for file in files]
