"""The passes over fine-tuning records: the classes, if they are held out each for itself, the examples, their rows. Each is skipped where
the journal has it."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..hashes import part_below
from ..prepare.corpus_folder import PARTS, REJECTS
from ..prepare.encode import task_maker
from ..prepare.journal import Journal, StagingDamaged
from ..prepare.making import Made
from ..prepare.passes import Pass, PassRunner
from ..prepare.refusal import Unusable
from ..prepare.sinks import Sink, State
from ..prepare.tally import Tally
from ..sources.find import Source
from ..tokenizer.tokenizer import read_existing, save_tokenizer
from ..tokens.description import describe_file, parse_description
from ..tokens.writer import token_dtype
from .examples import CAUSES
from .held_out import HeldOut
from .reading import TaskInput
from .settings import TaskRecipe
from .sinks import ClassSink, ExampleSink, PackSink
from .tokenizer_folder import save_template, template_variables
from .windows import PackTask, Windows
from .work import ClassTask, ExampleTask

# After so many records with so many bad ones, it is a wrong task or a wrong key, and not worth reading on.
_EARLY_RECORDS, _EARLY_LIMIT = 1_000, 0.5
_TOKENIZER = "tokenizer"
_EXAMPLES = "examples"  # folder of what is packed later


class TaskPreparation:
    """All passes over one input.

    Args:
        sources: the input files.
        recipe: what to make of them.
        template: the Jinja sources that it uses.
        staging: the folder for everything that is made, with the journal.
        journal: of that folder.
        runner: of its passes.
    """

    def __init__(self, sources: Sequence[Source], recipe: TaskRecipe, template: Sequence[str], staging: Path, journal: Journal,
                 runner: PassRunner) -> None:
        self._input = TaskInput(sources)
        self._recipe = recipe
        self._template = template
        self._folder = staging
        self._journal = journal
        self._runner = runner
        self._names = PARTS if recipe.held_out else PARTS[:1]

    def run(self) -> Made:
        """Makes what is not made yet.

        Raises:
            DataError: input, tokenizer or template that cannot be used, or a dead worker.
            StagingDamaged: begin anew.
        """
        tokenizer = self._tokenizer()
        examples = self._examples(self._held_out(), tokenizer, "making examples")
        if self._recipe.held_out and not examples["parts"]["validation"]["documents"]:  # by chance: the smallest hash goes
            smallest = examples["tally"]["smallest_hash"]
            examples = self._examples(HeldOut(smallest + 1), tokenizer, "making examples again")
        if not all(part["documents"] for part in examples["parts"].values()):
            count = examples["tally"]["documents"]
            message = f"held_out={self._recipe.held_out} leaves one part empty: {count} examples, equal ones stay together"
            raise Unusable(message, do="set held_out=0, or give more examples")
        packed = self._pack(examples, tokenizer) if self._packs else {"parts": examples["parts"], "filled": {}}
        task = {"kind": self._recipe.kind, "sequence_length": self._recipe.sequence_length, "labels": examples["labels"]}
        described = {"tokenizer": tokenizer["described"], "parts": packed["parts"], "sources": examples["sources"], "task": task}
        counts = {"tally": examples["tally"], "fates": examples["fates"], "filled": packed["filled"]}
        return Made(parse_description(described), counts)

    @property
    def _packs(self) -> bool:
        return self._recipe.kind == "chat"

    def _tokenizer(self) -> State:
        """Copies the tokenizer, with its template, into the corpus: kind, vocabulary, end-of-document id."""
        path, folder = Path(self._recipe.tokenizer_path).expanduser(), self._folder / _TOKENIZER
        if found := self._journal.result(_TOKENIZER):
            if found["files"] != _checksums(folder):
                raise StagingDamaged("the tokenizer is damaged")
            return found
        shutil.rmtree(folder, ignore_errors=True)
        kind, model, end = read_existing(self._recipe.tokenizer_kind, path)
        saved = save_tokenizer(folder, kind=kind, model=model, end_of_document=end, special_tokens=self._recipe.special_tokens)
        save_template(folder, self._template, template_variables(path, saved))
        described = {"kind": kind, "vocab_size": saved.vocab_size, "end_of_document": end}
        self._journal.finish(_TOKENIZER, {"described": described, "files": _checksums(folder)})
        return self._journal.result(_TOKENIZER)

    def _held_out(self) -> HeldOut:
        recipe = self._recipe
        if not (recipe.kind == "classification" and recipe.stratified and recipe.held_out):
            return HeldOut(part_below(recipe.held_out))
        work = Pass("reading the classes", task_maker(ClassTask, recipe),
                    lambda state: ClassSink(self._rejects, state, self._checked, log=self._folder / "classes", fraction=recipe.held_out))
        found = self._run(work)
        return HeldOut(0, {(kind, label): threshold for kind, label, threshold in found["thresholds"]})

    def _examples(self, held_out: HeldOut, tokenizer: State, name: str) -> State:
        recipe, dtype = self._recipe, token_dtype(tokenizer["described"]["vocab_size"])
        folder = self._folder / _EXAMPLES if self._packs else self._folder
        folder.mkdir(exist_ok=True)
        sink = partial(ExampleSink, folder=folder, names=self._names, dtype=dtype, recipe=recipe)
        work = Pass(name, task_maker(ExampleTask, self._folder / _TOKENIZER, recipe, held_out, dtype),
                    lambda state: sink(self._rejects, state, self._checked))
        made = self._run(work)
        if not made["tally"]["documents"]:
            records, dropped = made["tally"]["records"], made["fates"].get("dropped", 0)
            message = f"the input holds no example: {records} records, {dropped} of them longer than task.sequence_length"
            raise Unusable(message, do="check input= and task=, or raise task.sequence_length")
        return made

    def _pack(self, examples: State, tokenizer: State) -> State:
        """Examples to rows; what they were made from is not needed any more."""
        dtype, length, source = token_dtype(tokenizer["described"]["vocab_size"]), self._recipe.sequence_length, self._folder / _EXAMPLES
        sink = partial(PackSink, source=source, folder=self._folder, names=self._names, dtype=dtype, sequence_length=length)
        work = Pass("packing", task_maker(PackTask, length), sink)
        if self._journal.result(work.name) is None:
            described = parse_description({"tokenizer": tokenizer["described"], **{key: examples[key] for key in ("parts", "sources")}})
            assert described.sources
            self._runner.run(work, Windows(source, described.parts, described.sources))
        shutil.rmtree(source, ignore_errors=True)
        return self._journal.result(work.name)

    def _run(self, work: Pass[Any, Any]) -> State:
        result = self._runner.run(work, self._input)
        self._check(Tally(**result["tally"]), self._recipe.reject_limit)
        return result

    @property
    def _rejects(self) -> Path:
        return self._folder / REJECTS

    def _checked(self, sink: Sink[Any]) -> None:
        if sink.tally.records >= _EARLY_RECORDS:
            self._check(sink.tally, max(_EARLY_LIMIT, self._recipe.reject_limit))

    def _check(self, tally: Tally, limit: float) -> None:
        if tally.rejected <= limit * tally.records:
            return
        often = sorted(tally.causes.items(), key=lambda entry: -entry[1])
        causes = ", ".join(f"{count} {cause}" for cause, count in often[:5])
        message = f"{tally.rejected} of {tally.records} records are bad ({causes}), more than reject_limit={self._recipe.reject_limit}"
        way = CAUSES.get(often[0][0], "mend the input, or raise reject_limit=")
        listed = self._folder.parent / REJECTS  # where it will lie
        raise Unusable(message, do=f"see {listed}; {way}", file=listed)


def _checksums(folder: Path) -> dict[str, list[str]]:
    """Of every file below a folder."""
    return {str(path.relative_to(folder)): [*describe_file(path).blocks] for path in sorted(folder.rglob("*")) if path.is_file()}
