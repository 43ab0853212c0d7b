"""Fine-tuning records to a corpus folder: the same bytes for any number of workers, and complete or not there at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..hashes import part_below
from ..prepare.corpus_folder import PARTS, REJECTS, SPOOL, STAGING, commit, finished, input_record, locked, movable, write_record
from ..prepare.progress import NoProgress, Progress
from ..prepare.tally import Result, Tally
from ..prepare.workers import Workers
from ..sources.chunk import CHUNK, Chunk
from ..sources.find import Source, file_source, find_sources
from ..tokenizer.tokenizer import model_file, read_existing, save_tokenizer
from ..tokens.description import CorpusDescription, PartDescription, TaskDescription, TokenizerDescription
from ..tokens.writer import token_dtype
from .examples import CAUSES, TOO_LONG
from .held_out import HeldOut, class_thresholds
from .reading import task_chunks
from .settings import TaskRecipe, day
from .template import ChatTemplate
from .tokenizer_folder import save_template, template_sources, template_variables
from .work import Classes, ClassTask, ExampleTask, Fates, Made
from .writers import PackedPartWriter, PartWriter

R = TypeVar("R", bound=Result)

# After so many records with so many bad ones, it is a wrong task or a wrong key, and not worth reading on.
_EARLY_RECORDS, _EARLY_LIMIT = 1_000, 0.5
_IN_FLIGHT = 1 << 28  # bytes of records that workers have, or that wait for them


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
                 progress: Progress | None = None) -> PreparedTask:
    """Makes a corpus folder. Interrupted at any point, it leaves no corpus, and the next call begins anew.

    Args:
        inputs: as `find_sources`; JSON lines and tables.
        output: the folder; new, empty, or an earlier corpus.
        recipe: what to make of it.
        workers: processes; 0: one for each core. The output does not depend on it.
        overwrite: replace another corpus at `output`; it stays until the new one is complete.
        progress: is told how far it is.

    Raises:
        DataError: input, tokenizer or template cannot be used, too many bad records, something else at `output`, a dead worker.
    """
    folder = Path(output).expanduser()
    template = template_text(recipe)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        try:
            sources = _sources(inputs, folder)
            record = input_record(sources, asdict(recipe), [file_source(model_file(Path(recipe.tokenizer_path).expanduser()))])
            record["template"] = template
            if found := finished(folder, record, overwrite=overwrite):
                description, counts = found
                tally = Tally(**counts["tally"])
                return PreparedTask(folder, description, tally, counts["fates"], counts["filled"], reused=True)
            work = _Preparation(sources, recipe, folder / STAGING, workers or len(os.sched_getaffinity(0)), progress or NoProgress())
            return _made(work, folder, record)
        finally:
            for remains in (STAGING, SPOOL):
                shutil.rmtree(folder / remains, ignore_errors=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()


def _sources(inputs: Sequence[Any], folder: Path) -> list[Source]:
    """The input files; what comes from stdin is laid into the folder first."""
    if any((entry.get("path") if isinstance(entry, dict) else entry) == "-" for entry in inputs):
        (folder / SPOOL).mkdir(exist_ok=True)
    return find_sources(inputs, left_out=folder, spool=folder / SPOOL).sources


def _made(work: "_Preparation", folder: Path, record: dict[str, Any]) -> PreparedTask:
    """Fills the staging folder and moves all of it, or leaves only the list of rejects."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        description = work.run()
    except DataError:
        if work.tally.rejected:
            os.replace(staging / REJECTS, folder / REJECTS)
        raise
    write_record(staging, record, {"tally": asdict(work.tally), "fates": work.fates, "filled": work.filled})
    commit(staging, folder, description, movable(staging))
    return PreparedTask(folder, description, work.tally, work.fates, work.filled)


def template_text(recipe: TaskRecipe) -> list[str]:
    """The Jinja sources that a recipe uses: a later call compares them, a path alone says little."""
    if recipe.kind == "classification":
        return []
    sources = template_sources(recipe.template, Path(recipe.tokenizer_path).expanduser())
    for source in sources:
        ChatTemplate(source, variables={}, today=day(recipe.today), file=recipe.template)  # refused before anything is written
    return list(sources)


class _Preparation:
    """The passes over the input: the classes, if they are held out each for itself, then the examples."""

    def __init__(self, sources: list[Source], recipe: TaskRecipe, folder: Path, workers: int, progress: Progress) -> None:
        self._sources = sources
        self._recipe = recipe
        self._folder = folder
        self._workers = workers
        self._progress = progress
        self.tally = Tally()
        self.fates: Fates = {}
        self.filled: dict[str, float] = {}

    def run(self) -> CorpusDescription:
        kind, vocab_size, end = self._save_tokenizer()
        held_out = HeldOut(part_below(self._recipe.held_out))
        if self._recipe.kind == "classification" and self._recipe.stratified and self._recipe.held_out:
            held_out = self._by_class()
        parts, labels = self._examples(held_out, vocab_size)
        if self._recipe.held_out and not parts["validation"].documents:  # where chance holds out nothing, the smallest hash goes
            parts, labels = self._examples(HeldOut(self.tally.smallest_hash + 1), vocab_size)
        if not all(part.documents for part in parts.values()):
            message = f"held_out={self._recipe.held_out} leaves one part empty: {self.tally.documents} examples, equal ones stay together"
            raise DataError(message, do="set held_out=0, or give more examples")
        task = TaskDescription(kind=self._recipe.kind, sequence_length=self._recipe.sequence_length, labels=labels)
        tokenizer = TokenizerDescription(kind=kind, vocab_size=vocab_size, end_of_document=end)
        return CorpusDescription(tokenizer=tokenizer, parts=parts, task=task)

    def _save_tokenizer(self) -> tuple[str, int, int]:
        """Copies the tokenizer, with its template, into the corpus: kind, vocabulary, end-of-document id."""
        path, folder = Path(self._recipe.tokenizer_path).expanduser(), self._folder / "tokenizer"
        kind, model, end = read_existing(self._recipe.tokenizer_kind, path)
        saved = save_tokenizer(folder, kind=kind, model=model, end_of_document=end, special_tokens=self._recipe.special_tokens)
        save_template(folder, template_text(self._recipe), template_variables(path, saved))
        return kind, saved.vocab_size, end

    def _by_class(self) -> HeldOut:
        found: list[Classes] = list(self._pass("reading the classes", partial(ClassTask, self._recipe)))
        return HeldOut(0, class_thresholds([pair for each in found for pair in each.texts], self._recipe.held_out))

    def _examples(self, held_out: HeldOut, vocab_size: int) -> tuple[dict[str, PartDescription], tuple[str | int | bool, ...]]:
        dtype, recipe = token_dtype(vocab_size), self._recipe
        names = PARTS if recipe.held_out else PARTS[:1]
        self.fates, self.filled = {}, {}
        with ExitStack() as stack:
            if recipe.kind == "chat":
                packed = {name: stack.enter_context(PackedPartWriter(self._folder, name, dtype, sequence_length=recipe.sequence_length))
                          for name in names}
                self._write(packed, held_out, dtype)
                parts = {name: writer.finish() for name, writer in packed.items()}
                self.filled = {name: writer.filled for name, writer in packed.items()}
                return parts, ()
            classes = recipe.kind == "classification"
            plain = {name: stack.enter_context(PartWriter(self._folder, name, dtype, classes=classes)) for name in names}
            self._write(plain, held_out, dtype)
            labels = tuple(label for _, label in sorted(set().union(*(writer.classes for writer in plain.values()))))
            return {name: writer.finish(labels) for name, writer in plain.items()}, labels

    def _write(self, writers: dict[str, PackedPartWriter] | dict[str, PartWriter], held_out: HeldOut, dtype: Any) -> None:
        made: Made
        for made in self._pass("making examples", partial(ExampleTask, self._folder / "tokenizer", self._recipe, held_out, dtype)):
            for fate, count in made.fates.items():
                self.fates[fate] = self.fates.get(fate, 0) + count
            for name, writer in writers.items():
                writer.add(made.parts[name])
        if not self.tally.documents:
            dropped = self.fates.get("dropped", 0)
            message = f"the input holds no example: {self.tally.records} records, {dropped} of them longer than task.sequence_length"
            raise DataError(message, do="check input= and task=, or raise task.sequence_length")

    def _pass(self, name: str, make: Callable[[], Callable[[Chunk], R]]) -> Iterator[R]:
        """The results of one pass of the workers, in order; on the way it counts, and writes rejects.jsonl."""
        self._progress.phase(name, sum(source.size for source in self._sources))
        self.tally = Tally()
        chunks: Iterable[tuple[Chunk, int]] = ((chunk, max(CHUNK, chunk.size)) for chunk in task_chunks(self._sources))
        with (self._folder / REJECTS).open("w", encoding="utf-8") as rejects, Workers(self._workers, make) as workers:
            for result in workers.ordered(chunks, most=_IN_FLIGHT):
                self.tally.add(result.tally)
                rejects.writelines(json.dumps(asdict(reject)) + "\n" for reject in result.rejects)
                self._progress.advance(result.read, result.tally.documents, result.tally.text_bytes)
                rejects.flush()
                if long := next((reject for reject in result.rejects if reject.cause == TOO_LONG), None):
                    message = f"{long.file}:{long.line} makes an example longer than task.sequence_length={self._recipe.sequence_length}"
                    way = "raise it, or set task.overlong=drop or one of cut_prompt_start, cut_prompt_end, cut_end"
                    raise DataError(message, do=way, file=long.file)
                if self.tally.records >= _EARLY_RECORDS:
                    self._check_rejects(max(_EARLY_LIMIT, self._recipe.reject_limit))
                yield result
            self._check_rejects(self._recipe.reject_limit)

    def _check_rejects(self, limit: float) -> None:
        tally = self.tally
        if tally.rejected <= limit * tally.records:
            return
        often = sorted(tally.causes.items(), key=lambda entry: -entry[1])
        causes = ", ".join(f"{count} {cause}" for cause, count in often[:5])
        message = f"{tally.rejected} of {tally.records} records are bad ({causes}), more than reject_limit={self._recipe.reject_limit}"
        way = CAUSES.get(often[0][0], "mend the input, or raise reject_limit=")
        listed = self._folder.parent / REJECTS  # where it will lie
        raise DataError(message, do=f"see {listed}; {way}", file=listed)
