"""Fine-tuning records to a corpus folder: the same bytes for any number of workers, in constant memory, complete or not there."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..prepare.corpus_folder import STAGING, finished, input_record
from ..prepare.journal import Journal
from ..prepare.making import Made, Making, input_sources, own_folder
from ..prepare.passes import PassRunner
from ..prepare.prepare import JOURNAL_SECONDS
from ..prepare.progress import NoProgress, Progress
from ..prepare.tally import Tally
from ..sources.find import file_source
from ..tokenizer.tokenizer import model_file
from ..tokens.description import CorpusDescription
from .preparation import TaskPreparation
from .settings import TaskRecipe, day
from .template import ChatTemplate
from .tokenizer_folder import template_sources
from .work import Fates


@dataclass(frozen=True)
class PreparedTask:
    """A corpus folder, and what its making has counted.

    Args:
        folder, description: of the corpus.
        tally: of records and examples.
        fates: how many examples were "cut", how many "dropped", for their length.
        filled: part of the rows of each part that is tokens of examples; empty where there are no rows.
        reused: it was there already, from the same input and recipe.
    """

    folder: Path
    description: CorpusDescription
    tally: Tally
    fates: Fates = field(default_factory=dict)
    filled: dict[str, float] = field(default_factory=dict)
    reused: bool = False


def prepare_task(inputs: Sequence[Any], output: str | Path, recipe: TaskRecipe, *, workers: int = 0, overwrite: bool = False,
                 progress: Progress | None = None, journal_seconds: float = JOURNAL_SECONDS) -> PreparedTask:
    """Makes a corpus folder. Interrupted at any point, it leaves no corpus, and the next call goes on from there.

    Args:
        inputs: as `find_sources`; JSON lines and tables.
        output: the folder; new, empty, or an earlier corpus.
        recipe: what to make of it.
        workers: processes; 0: one for each core. The output does not depend on it.
        overwrite: replace another corpus at `output`; it stays until the new one is complete.
        progress: is told how far it is.
        journal_seconds: work that is done again after an interruption.

    Raises:
        DataError: input, tokenizer or template cannot be used, too many bad records, something else at `output`, a dead worker.
    """
    folder = Path(output).expanduser()
    progress = progress or NoProgress()
    template = template_text(recipe)
    with own_folder(folder):
        sources = input_sources(inputs, folder, progress)
        record = input_record(sources, asdict(recipe), [file_source(model_file(Path(recipe.tokenizer_path).expanduser()))])
        record["template"] = template
        if found := finished(folder, record, overwrite=overwrite):
            shutil.rmtree(folder / STAGING, ignore_errors=True)  # of a prepare that was killed after its last act
            return _prepared(folder, *found, reused=True)

        def passes(journal: Journal) -> Made:
            runner = PassRunner(journal, workers=workers or len(os.sched_getaffinity(0)), progress=progress, seconds=journal_seconds)
            return TaskPreparation(sources, recipe, template, folder / STAGING, journal, runner).run()

        with Making(folder, record, progress) as making:
            made = making.run(passes)
        return _prepared(folder, made.description, made.counts, reused=False)


def _prepared(folder: Path, description: CorpusDescription, counts: dict[str, Any], *, reused: bool) -> PreparedTask:
    return PreparedTask(folder, description, Tally(**counts["tally"]), counts["fates"], counts["filled"], reused)


def template_text(recipe: TaskRecipe) -> list[str]:
    """The Jinja sources that a recipe uses: a later call compares them, a path alone says little."""
    if recipe.kind == "classification":
        return []
    sources = template_sources(recipe.template, Path(recipe.tokenizer_path).expanduser())
    for source in sources:
        ChatTemplate(source, variables={}, today=day(recipe.today), file=recipe.template)  # refused before anything is written
    return list(sources)
