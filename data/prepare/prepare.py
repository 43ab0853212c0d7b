"""Raw text to a corpus folder: the same bytes for any number of workers, in constant memory, and complete or not there at all."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..clean.evaluation_sets import evaluation_sources
from ..clean.needs import need_file
from ..clean.report import CleanReport
from ..sources.find import Source, file_source
from ..tokenizer.tokenizer import TRAINED_KINDS, model_file
from ..tokens.description import CorpusDescription
from .corpus_folder import STAGING, finished, input_record
from .journal import Journal
from .making import Made, Making, input_sources, own_folder
from .passes import PassRunner
from .preparation import Preparation
from .progress import NoProgress, Progress
from .recipe import Recipe
from .tally import Tally

__all__ = ["NoProgress", "Prepared", "Progress", "Recipe", "prepare"]

JOURNAL_SECONDS = 5.0  # of work that an interruption may cost


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
    with own_folder(folder):
        sources = input_sources(inputs, folder, progress)
        record = input_record(sources, asdict(recipe), also_read)
        if found := finished(folder, record, overwrite=overwrite):
            shutil.rmtree(folder / STAGING, ignore_errors=True)  # of a prepare that was killed after its last act
            description, counts = found
            return Prepared(folder, description, Tally(**counts), reused=True)

        def passes(journal: Journal) -> Made:
            runner = PassRunner(journal, workers=workers or len(os.sched_getaffinity(0)), progress=progress, seconds=journal_seconds)
            outcome = Preparation(sources, recipe, folder / STAGING, journal, runner, progress).run()
            return Made(outcome.description, asdict(outcome.tally), outcome.report)

        with Making(folder, record, progress) as making:
            made = making.run(passes)
        return Prepared(folder, made.description, Tally(**made.counts), reused=False, report=made.report)


def _also_read(recipe: Recipe) -> list[Source]:
    """Files besides the input that decide the corpus.

    Raises:
        DataError: one is missing.
    """
    sets = recipe.clean.decontamination.files
    files = [need_file(os.path.expanduser(file), "clean's file") for file in recipe.clean.files if file not in sets]
    if recipe.tokenizer_kind not in TRAINED_KINDS:
        files.append(model_file(Path(recipe.tokenizer_path).expanduser()))
    return [*(file_source(file) for file in files), *(source for file in sets for source in evaluation_sources(file))]
