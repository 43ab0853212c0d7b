"""Raw text to a corpus folder: the same bytes for any number of workers, in constant memory, and complete or not there at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ..errors import DataError
from ..hashes import part_below
from ..tokenizer.tokenizer import TRAINED_KINDS, Tokenizer, model_file, read_existing, save_tokenizer
from ..tokenizer.training import train_tokenizer
from ..tokens.description import CorpusDescription, PartDescription, TokenizerDescription
from ..tokens.writer import TokenFileWriter, token_dtype
from .corpus_folder import PARTS, REJECTS, STAGING, commit, finished, input_record, locked, write_record
from .encode import EncodeTask, Result, SampleTask, Tally, task_maker
from .sources import Chunk, Source, file_source, find_sources, read_chunks
from .text_sample import Sample
from .workers import Workers

T = TypeVar("T")
R = TypeVar("R", bound=Result)

# After so many records with so many bad ones, it is a wrong text_key or a wrong file, and not worth reading on.
_EARLY_RECORDS, _EARLY_LIMIT = 10_000, 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the bytes of a corpus, besides its input.

    Args:
        tokenizer_kind: one of `tokenizer.KINDS`.
        tokenizer_path: the existing tokenizer, for the kinds that read one.
        vocab_size: pieces of a trained tokenizer.
        text_key: key of the text in JSON lines, column in Parquet.
        held_out: part of the documents for validation; a document goes where its hash says, so equal ones stay together.
        reject_limit: largest part of bad records that is not an error.
    """

    tokenizer_kind: str = "sentencepiece_bpe"
    tokenizer_path: str = ""
    vocab_size: int = 32000
    text_key: str = "text"
    held_out: float = 0.01
    reject_limit: float = 0.001


class Progress(Protocol):
    """Whoever wants to see how far it is."""

    def phase(self, name: str, total_bytes: int) -> None:
        """A pass over `total_bytes` of input files begins; 0: work that is not counted in bytes."""

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        """So much more is done."""


class NoProgress:
    """Shows nothing."""

    def phase(self, name: str, total_bytes: int) -> None:
        pass

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        pass


@dataclass(frozen=True)
class Prepared:
    """A corpus folder, and what its making has counted; `reused`: it was there already, from the same input and recipe."""

    folder: Path
    description: CorpusDescription
    tally: Tally
    reused: bool


def prepare(
    inputs: Sequence[str],
    output: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Makes a corpus folder. Interrupted at any point, it leaves no corpus, and the next call begins anew.

    Args:
        inputs: files, folders, globs, or `python_stdlib`; see `find_sources`.
        output: the folder; new, empty, or an earlier corpus.
        recipe: what to make of it.
        workers: processes; 0: one for each core. The output does not depend on it.
        overwrite: replace another corpus at `output`; it stays until the new one is complete.
        progress: is told how far it is.

    Raises:
        DataError: input missing, damaged or empty, too many bad records, something else at `output`, a dead worker.
    """
    folder = Path(output).expanduser()
    sources = find_sources(inputs, left_out=folder)
    trained = recipe.tokenizer_kind in TRAINED_KINDS
    tokenizer_file = None if trained else file_source(model_file(Path(recipe.tokenizer_path).expanduser()))
    record = input_record(sources, asdict(recipe), tokenizer_file)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if found := finished(folder, record, overwrite=overwrite):
            description, counts = found
            return Prepared(folder, description, Tally(**counts), reused=True)
        staging = folder / STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            work = _Preparation(sources, recipe, staging, workers or len(os.sched_getaffinity(0)), progress or NoProgress())
            description = work.run()
            write_record(staging, record, asdict(work.tally))
            commit(staging, folder, description)
        except DataError:
            if work.tally.rejected:
                os.replace(staging / REJECTS, folder / REJECTS)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()
    return Prepared(folder, description, work.tally, reused=False)


class _Preparation:
    """The passes over the input: sample and train the tokenizer, then encode."""

    def __init__(self, sources: list[Source], recipe: Recipe, folder: Path, workers: int, progress: Progress) -> None:
        self._sources = sources
        self._recipe = recipe
        self._folder = folder
        self._workers = workers
        self._progress = progress
        self._threshold = part_below(recipe.held_out)
        self.tally = Tally()

    def run(self) -> CorpusDescription:
        kind, model, end = self._train() if self._recipe.tokenizer_kind in TRAINED_KINDS else self._read_tokenizer()
        tokenizer = save_tokenizer(self._folder / "tokenizer", kind=kind, model=model, end_of_document=end)
        parts = self._encode(tokenizer)
        if self._raise_threshold():
            parts = self._encode(tokenizer)
        if not all(part.documents for part in parts.values()):
            raise self._one_sided()
        described = TokenizerDescription(kind=kind, vocab_size=tokenizer.vocab_size, end_of_document=end)
        return CorpusDescription(tokenizer=described, parts=parts)

    def _read_tokenizer(self) -> tuple[str, bytes, int]:
        return read_existing(self._recipe.tokenizer_kind, Path(self._recipe.tokenizer_path).expanduser())

    def _train(self) -> tuple[str, bytes, int]:
        """Trains on documents of the training part only."""
        sample = Sample()
        items = ((chunk, self._threshold, sample.most) for chunk in self._chunks())
        for sampled in self._pass("reading", task_maker(SampleTask, self._recipe.text_key), items):
            sample.add(sampled.texts)
        if self._raise_threshold():
            sample.drop_below(self._threshold)
        texts = sample.texts()
        if not texts:
            raise self._one_sided()
        self._progress.phase("training the tokenizer", 0)
        kind = self._recipe.tokenizer_kind
        return kind, *train_tokenizer(kind, texts, vocab_size=self._recipe.vocab_size)

    def _encode(self, tokenizer: Tokenizer) -> dict[str, PartDescription]:
        dtype = token_dtype(tokenizer.vocab_size)
        make = task_maker(EncodeTask, self._recipe.text_key, self._folder / "tokenizer", self._threshold, dtype)
        names = PARTS if self._recipe.held_out else PARTS[:1]
        with ExitStack() as stack:
            writers = {name: stack.enter_context(TokenFileWriter(self._folder / name, dtype)) for name in names}
            for encoded in self._pass("tokenizing", make, self._chunks()):
                for name, writer in writers.items():
                    writer.add_documents(encoded.parts[name].ids, encoded.parts[name].lengths)
            return {name: writer.finish() for name, writer in writers.items()}

    def _raise_threshold(self) -> bool:
        """Where chance holds out nothing, the document with the smallest hash is held out."""
        if not self._threshold or self.tally.smallest_hash < self._threshold:
            return False
        self._threshold = self.tally.smallest_hash + 1
        return True

    def _chunks(self) -> Iterator[Chunk]:
        return read_chunks(self._sources, text_key=self._recipe.text_key)

    def _pass(self, name: str, make: Callable[[], Callable[[T], R]], items: Iterable[T]) -> Iterator[R]:
        """The results of one pass of the workers, in order; on the way it counts, and writes rejects.jsonl."""
        self._progress.phase(name, sum(source.size for source in self._sources))
        self.tally = Tally()
        with (self._folder / REJECTS).open("w", encoding="utf-8") as rejects, Workers(self._workers, make) as workers:
            for result in workers.ordered(items):
                self.tally.add(result.tally)
                rejects.writelines(json.dumps(asdict(reject)) + "\n" for reject in result.rejects)
                self._progress.advance(result.read, result.tally.documents, result.tally.text_bytes)
                if self.tally.records >= _EARLY_RECORDS:
                    self._check_rejects(max(_EARLY_LIMIT, self._recipe.reject_limit))
                yield result
            self._check_rejects(self._recipe.reject_limit)
        if not self.tally.documents:
            message = f"the input holds no text: {self.tally.records} records, {self.tally.empty} of them empty"
            raise DataError(message, do="check input= and text_key=")

    def _check_rejects(self, limit: float) -> None:
        tally = self.tally
        if tally.rejected <= limit * tally.records:
            return
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(tally.causes.items()))
        message = f"{tally.rejected} of {tally.records} records are bad ({causes}), more than reject_limit={self._recipe.reject_limit}"
        listed = self._folder.parent / REJECTS  # where it will lie
        raise DataError(message, do=f"see {listed}, then mend the input or text_key=, or raise reject_limit=", file=listed)

    def _one_sided(self) -> DataError:
        message = f"held_out={self._recipe.held_out} leaves one part empty: {self.tally.documents} documents, equal ones stay together"
        return DataError(message, do="set held_out=0, or give the text as more documents (such as JSON lines)")
