"""The passes of `prepare`: clean, find duplicates, sample and train the tokenizer, encode. Each is skipped where the journal has it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..clean.cleaner import Cleaner
from ..clean.report import CleanReport, duplicate_rows
from ..clean.settings import CleanSettings
from ..errors import DataError
from ..hashes import part_below
from ..sources.find import Source
from ..tokenizer.tokenizer import TRAINED_KINDS, proof_beside, read_existing, save_tokenizer
from ..tokenizer.training import train_tokenizer
from ..tokens.description import FILE_NAME, CorpusDescription, describe_file, parse_description
from ..tokens.writer import token_dtype
from .corpus_folder import PARTS, REJECTS, REPORTS
from .corpus_wide import load_verdict, search_duplicates, signature_shape
from .encode import CleanTask, EncodeTask, ReportShape, SampleTask, task_maker
from .inputs import Input, Item, RawInput, StoredInput
from .journal import Journal, StagingDamaged
from .passes import Pass, PassRunner
from .progress import Progress
from .recipe import Recipe
from .refusal import Unusable, check_rejects
from .sinks import CleanSink, EncodeSink, SampleSink, Sink, State, read_sample
from .tally import Tally

_LOG = "sample"
_TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Outcome:
    """What the passes have made, beside the files in the staging folder.

    Args:
        description: for `corpus.json`.
        tally: records and rejects of the input; documents and bytes of what was encoded.
        report: of the cleaning, if there was any.
    """

    description: CorpusDescription
    tally: Tally
    report: CleanReport | None


class Preparation:
    """All passes over one input.

    Args:
        sources: the input files.
        recipe: what to make of them.
        staging: the folder for everything that is made, with the journal.
        journal: of that folder.
        runner: of its passes.
        progress: is told what else happens.
    """

    def __init__(self, sources: Sequence[Source], recipe: Recipe, staging: Path, journal: Journal, runner: PassRunner,
                 progress: Progress) -> None:
        self._recipe = recipe
        self._folder = staging
        self._journal = journal
        self._runner = runner
        self._progress = progress
        self._raw = RawInput(sources, recipe.text_key)
        # The text of web pages is taken out once, whatever the settings: tags are no text.
        self._cleans = recipe.clean != CleanSettings() or any(source.may_hold_html for source in sources)
        self._threshold = part_below(recipe.held_out)
        self._report: ReportShape | None = None
        self._cleaned: State | None = None

    def run(self) -> Outcome:
        """Makes what is not made yet.

        Raises:
            DataError: input that cannot be used or read, or a dead worker.
            StagingDamaged: begin anew.
        """
        source: Input = self._clean() if self._cleans else self._raw
        tokenizer = self._trained(source) if self._recipe.tokenizer_kind in TRAINED_KINDS else self._existing()
        encoded = self._encode(source, tokenizer, "tokenizing")
        if self._raise_threshold(encoded):
            encoded = self._encode(source, tokenizer, "tokenizing again")
        tally = Tally(**encoded["tally"])
        if not all(part["documents"] for part in encoded["parts"].values()):
            raise self._one_sided(tally)
        made = {"parts": encoded["parts"], "sources": encoded["sources"]}
        description = parse_description({"version": 1, "tokenizer": tokenizer["described"], **made})
        if not self._cleaned:
            return Outcome(description, tally, None)
        report = CleanReport.restore(self._cleaned["report"])
        report.merge(CleanReport.restore(encoded["removed"]))
        report.write(self._folder)
        read = Tally(**self._cleaned["tally"])
        tally.records, tally.skipped, tally.causes = read.records, read.skipped, read.causes
        return Outcome(description, tally, report)

    def _clean(self) -> StoredInput:
        settings = self._recipe.clean
        report = self._report = ReportShape([*Cleaner(settings).names, *duplicate_rows(settings)], settings.examples)
        shape = signature_shape(settings.duplicates)
        work = Pass(
            "cleaning",
            task_maker(CleanTask, settings, report, shape),
            lambda state: CleanSink(self._rejects(self._raw), state, self._checked, folder=self._folder, report=report),
        )
        self._cleaned = self._run(work, self._raw)
        if not self._cleaned["store"]:
            raise self._all_removed(CleanReport.restore(self._cleaned["report"]))
        gone = None
        if shape:
            if self._journal.result("duplicates") is None:
                verdict = search_duplicates(self._folder, shape, settings.duplicates.similarity, self._progress)
                self._journal.finish("duplicates", verdict)
            gone = load_verdict(self._folder, self._journal.result("duplicates"))
        return StoredInput(self._folder / "store", self._cleaned["store"], gone)

    def _existing(self) -> State:
        kind, path = self._recipe.tokenizer_kind, Path(self._recipe.tokenizer_path).expanduser()
        return self._tokenizer() or self._save_tokenizer(*read_existing(kind, path), proof_beside(path))

    def _trained(self, source: Input) -> State:
        """Trains on documents of the training part only."""
        work = Pass(
            "reading",
            task_maker(SampleTask),
            lambda state: SampleSink(self._rejects(source), state, self._checked, log=self._folder / _LOG),
            self._wanted,
        )
        sampled = self._run(work, source)
        raised = self._raise_threshold(sampled)
        if found := self._tokenizer():
            return found
        sample = read_sample(self._folder / _LOG, sampled["sample"])
        if raised:
            sample.drop_below(self._threshold)
        texts = sample.texts()
        if not texts:
            raise self._one_sided(Tally(**sampled["tally"]))
        self._progress.phase("training the tokenizer", 0)
        kind = self._recipe.tokenizer_kind
        recipe = self._recipe
        model, end = train_tokenizer(kind, texts, vocab_size=recipe.vocab_size, special_tokens=recipe.special_tokens,
                                     lowercase=recipe.lowercase)
        return self._save_tokenizer(kind, model, end)

    def _wanted(self, sink: SampleSink, item: Item) -> tuple[Item, int, int]:
        return item, self._threshold, sink.sample.most

    def _tokenizer(self) -> State | None:
        """The tokenizer that was made before the interruption, if it was, and is still whole."""
        found = self._journal.result(_TOKENIZER)
        if found and found["files"] != self._tokenizer_files():
            raise StagingDamaged("the tokenizer is damaged")
        return found

    def _tokenizer_files(self) -> dict[str, Any]:
        return {path.name: [*describe_file(path).blocks] for path in sorted((self._folder / _TOKENIZER).glob("*"))}

    def _save_tokenizer(self, kind: str, model: bytes, end: int, proof: Mapping[str, str] | None = None) -> State:
        shutil.rmtree(self._folder / _TOKENIZER, ignore_errors=True)
        saved = save_tokenizer(self._folder / _TOKENIZER, kind=kind, model=model, end_of_document=end,
                               special_tokens=self._recipe.special_tokens, proof=proof)
        described = {"kind": kind, "vocab_size": saved.vocab_size, "end_of_document": end}
        self._journal.finish(_TOKENIZER, {"described": described, "files": self._tokenizer_files()})
        return self._journal.result(_TOKENIZER)

    def _encode(self, source: Input, tokenizer: State, name: str) -> State:
        dtype = token_dtype(tokenizer["described"]["vocab_size"])
        names = PARTS if self._recipe.held_out else PARTS[:1]
        sink = partial(EncodeSink, folder=self._folder, names=names, dtype=dtype, report=self._report)
        work = Pass(
            name,
            task_maker(EncodeTask, self._folder / _TOKENIZER, self._threshold, dtype, self._report),
            lambda state: sink(self._rejects(source), state, self._checked),
        )
        return self._run(work, source)

    def _run(self, work: Pass[Any, Any], source: Input) -> State:
        result = self._runner.run(work, source)
        tally = Tally(**result["tally"])
        if source.raw:
            check_rejects(tally, self._recipe.reject_limit, self._folder.parent / REJECTS)
            if not tally.documents:
                message = f"the input holds no text: {tally.records} records, {tally.empty} of them empty"
                raise Unusable(message, do="check input= and text_key=")
        return result

    def _raise_threshold(self, result: State) -> bool:
        """Where chance holds out nothing, the document with the smallest hash is held out."""
        smallest = result["tally"]["smallest_hash"]
        if not self._threshold or smallest < self._threshold:
            return False
        self._threshold = smallest + 1
        return True

    def _rejects(self, source: Input) -> Path | None:
        return self._folder / REJECTS if source.raw else None

    def _checked(self, sink: Sink[Any]) -> None:
        check_rejects(sink.tally, self._recipe.reject_limit, self._folder.parent / REJECTS, early=True)

    def _all_removed(self, report: CleanReport) -> DataError:
        """Names the rules that took most; the report of the cleaning lies in the staging folder."""
        report.write(self._folder)
        counts = {name: row.documents_in - row.documents_out for name, row in report.rows.items()}
        most = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:3]
        causes = "; ".join(f"{name} {counts[name]} ({_largest(report.rows[name].details)})" for name in most)
        shown = self._folder.parent / REPORTS[1]
        message = f"cleaning removed all {report.documents_in} documents: {causes}"
        way = "loosen these rules of clean= or switch them off"
        if (self._folder.parent / FILE_NAME).exists():  # the corpus that was to be overwritten stays, and its report with it
            return Unusable(message, do=f"{way}; another output would show a report")
        return Unusable(message, do=f"see {shown}, then {way}", file=shown)

    def _one_sided(self, tally: Tally) -> DataError:
        message = f"held_out={self._recipe.held_out} leaves one part empty: {tally.documents} documents, equal ones stay together"
        return Unusable(message, do="set held_out=0, or give the text as more documents (such as JSON lines)")


def _largest(details: dict[str, int]) -> str:
    """A rule's conditions that removed most."""
    return ", ".join(f"{details[name]} {name}" for name in sorted(details, key=lambda name: -details[name])[:3])
