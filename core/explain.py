"""What a step of a run was made of, found again from its config: samples, documents, files and bytes, for each rank. Imports no torch.

Nothing of it was stored: which samples a step took follows from where it began (metrics.jsonl), how many it took (the batch of the start
that made it, starts.jsonl), and how a batch is divided; what a sample is follows from the seed and its number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..conf.errors import ConfigError, Problem
from ..conf.schema import Config
from ..conf.sources import all_sources, sources, stages
from ..data.errors import DataError
from ..data.finetune.packed import PackedSet
from ..data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from ..data.tokens.bulk import Spans
from ..data.tokens.joined import JoinedTokens, Tokens
from ..data.tokens.raw_origins import RawOrigins
from ..parallel.topology import Coordinate, Topology
from .batch import BatchPlan
from .metrics import is_training
from .starts import FILE, as_started, start_of
from .step_log import decode
from .training_data import AnyTrainingSet, open_training

FIRST_TOKENS = 16  # of a sample, decoded
CHUNK = 256  # samples read at once


@dataclass(frozen=True)
class Place:
    """Where a step lies in the run.

    Args:
        step: counted from 1, as in `metrics.jsonl`.
        first: its first sample.
        size: its samples over all ranks.
        passed_over: samples that a rewind passed over just before it.
        assumed: what is not recorded and was taken for granted, in words.
    """

    step: int
    first: int
    size: int
    passed_over: int
    assumed: tuple[str, ...]


def explain_step(config: Config, directory: Path, step: int, *, ranks: int = 0) -> dict[str, Any]:
    """What a step was made of.

    Args:
        config: of the run's newest start, as in its config.yaml.
        directory: of the run.
        step: counted from 1, as in `metrics.jsonl`.
        ranks: of the run, where it has not recorded them; 0: as many as its cluster section says.

    Returns:
        Where the step lies, its layout, and `samples`: for each one the rank and data rank that saw it, its micro-batch, number, source
        (number and path), epoch and window in it, documents, and the spans of its tokens: their bytes in the token
        file, and where the corpus knows it, raw `file` and `line` of the document, else None.

    Raises:
        ConfigError: its layout is impossible.
        DataError: a corpus is missing or damaged.
    """
    row = start_of(directory, step)
    config = config if row is None else as_started(config, row)
    world_size = row["ranks"] if row is not None else ranks or config.cluster.nodes * config.cluster.ranks_per_node
    topology, plan = _layout(config, world_size, directory)
    assumed = () if row is not None else (f"{FILE} does not tell of it: {world_size} ranks, and the batch of config.yaml",)
    place = find_step(directory, step, plan, began=(0, 0) if row is None else (row["step"], row["samples_seen"]), assumed=assumed)
    training = open_training(config)
    paths = all_sources(sources(config.data.train), stages(config.data.stages))
    views = [_SourceView(path, file, config.model.sequence_length, _tokenizer(path), RawOrigins(file, path))
             for path, file in zip(paths, training.files, strict=True)]
    placed = {who["sample"]: who for who in _who(plan, topology, place)}
    found = [placed[number] | what for number, what in _samples(training, views, sorted(placed))]
    found.sort(key=lambda each: (each["data_rank"], each["micro_batch"], each["sample"]))
    layout = {"ranks": world_size} | {axis: getattr(topology, axis) for axis in ("tp", "pp", "cp", "ep", "dp")}
    return {"run": str(directory), "step": step, "first_sample": place.first, "size": place.size, "passed_over": place.passed_over,
            "assumed": list(place.assumed), "layout": layout, "micro_size": plan.micro_size,
            "sequence_length": config.model.sequence_length, "samples": found}


def find_step(directory: Path, step: int, plan: BatchPlan, *, began: tuple[int, int], assumed: tuple[str, ...]) -> Place:
    """Where a step began, and how many samples it took.

    Args:
        directory: of the run.
        step: counted from 1.
        plan: of the start that made it.
        began: step and samples seen as that start began.
        assumed: what was already taken for granted.
    """
    size, own, before = plan.size(step - 1), None, None
    for row in _training_rows(directory / "metrics.jsonl"):
        if row["step"] == step:
            own = row
        elif row["step"] < step:
            before = row
    if own is not None:
        first = own["samples_seen"] - size
        seen = before["samples_seen"] if before is not None and before["step"] == step - 1 else began[1] if began[0] == step - 1 else first
        if seen > first and assumed:  # the batch of config.yaml is of a later start
            size, first = own["samples_seen"] - seen, seen
        return Place(step, first, size, first - seen, assumed)
    last, samples = (before["step"], before["samples_seen"]) if before is not None and before["step"] >= began[0] else began
    first = samples + plan.first_sample(step - 1) - plan.first_sample(last)
    return Place(step, first, size, 0, (*assumed, f"step {step} is not recorded in metrics.jsonl: it is taken to follow step {last}, and "
                                        f"its {samples} samples, undisturbed"))


def _training_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            row = decode(line)
            if row is not None and is_training(row):
                yield row


def _layout(config: Config, world_size: int, directory: Path) -> tuple[Topology, BatchPlan]:
    p = config.parallel
    try:
        topology = Topology.divide(world_size=world_size, tp=p.tp, pp=p.pp, cp=p.cp, ep=p.ep)
        return topology, BatchPlan.of(config.batch, dp=topology.dp)
    except ValueError as error:
        raise ConfigError([Problem("ranks", world_size, f"does not go with {directory / 'config.yaml'}: {error}",
                                   "give ranks=<the number of ranks that the step ran on>")]) from error


def _who(plan: BatchPlan, topology: Topology, place: Place) -> Iterator[dict[str, Any]]:
    """For each sample of the step its data rank, the first rank of that one's model (which `samples.jsonl` names), and its micro-batch."""
    for data_rank in range(plan.dp):
        rank = topology.rank(Coordinate(pp=0, dp=data_rank, cp=0, tp=0))
        for turn, sample in enumerate(plan.block(place.first, place.size, data_rank)):
            yield {"step": place.step, "rank": rank, "data_rank": data_rank, "micro_batch": turn // plan.micro_size, "sample": sample}


@dataclass(frozen=True)
class _SourceView:
    """One source as it is told of.

    Args:
        path: as in the config.
        file: its tokens.
        length: of a window.
        tokenizer: None where it has none.
        raw: where its documents came from.
    """

    path: str
    file: Tokens
    length: int
    tokenizer: Tokenizer | None
    raw: RawOrigins

    def spans(self, start: int) -> list[dict[str, Any]]:
        """Documents of the inputs of a window, in their order, each with its piece of it."""
        found, file = [], self.file
        pieces = [(start, min(self.length, file.num_tokens - start))]
        if pieces[0][1] < self.length:
            pieces.append((0, self.length - pieces[0][1]))  # the stream is a circle
        for first, count in pieces:
            one = np.zeros(1, dtype=np.int64)
            within = file.documents_within(Spans(starts_K=one + first, counts_K=one + count, rows_K=one, columns_K=one))
            begins = within.begins_D.tolist()
            for document, begin, end in zip(within.numbers_D.tolist(), begins, [*begins[1:], first + count], strict=True):
                found.append(self._span(document, begin - file.document_start(document), end - begin))
        return found

    def examples(self, documents: Sequence[int]) -> list[dict[str, Any]]:
        """The documents of a packed row, as `spans`: all inputs of each, which are all but its last token."""
        start = self.file.document_start
        return [self._span(document, 0, start(document + 1) - start(document) - 1) for document in documents]

    def _span(self, document: int, offset: int, tokens: int) -> dict[str, Any]:
        """So many tokens of a document, from one of its tokens on."""
        files = self.file.files if isinstance(self.file, JoinedTokens) else [self.file]
        path, _, byte = self.file.origin(document)
        size = next(file.dtype.itemsize for file in files if file.bin_path == path)
        raw, line = self.raw.find(document) or (None, None)
        return {"document": document, "offset": offset, "tokens": tokens, "position": self.file.document_start(document) + offset,
                "bin": str(path), "byte": byte + offset * size, "file": raw, "line": line}


def _samples(training: AnyTrainingSet, views: list[_SourceView], numbers: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What each sample is."""
    for at in range(0, len(numbers), CHUNK):
        batch = training.batch(numbers[at : at + CHUNK])
        _, turns_B = training.order.locate(batch.samples_B)
        pieces_B = training.order.piece_lengths(batch.samples_B)
        for place, sample in enumerate(batch.samples_B.tolist()):
            source, start = int(batch.sources_B[place]), int(batch.starts_B[place])
            view = views[source]
            packed = isinstance(training, PackedSet)
            epoch, window = divmod(int(turns_B[place]), training.packed[source].num_rows if packed else view.file.num_tokens // view.length)
            documents = batch.document_ids_B[place]
            spans = view.examples(documents) if packed else view.spans(start)
            yield sample, {
                "source": source, "path": view.path, "bin": spans[0]["bin"], "epoch": epoch, "window": window,
                "piece_length": int(pieces_B[place]), "documents": list(documents), "spans": spans,
                "text": _words(view.tokenizer, batch.tokens_BS[place, :FIRST_TOKENS])}


def _words(tokenizer: Tokenizer | None, tokens_S: np.ndarray) -> str | None:
    return None if tokenizer is None else tokenizer.decode([int(token) for token in tokens_S])


def _tokenizer(path: str) -> Tokenizer | None:
    """A corpus' own; None for a Megatron prefix, and where it is not readable: then only ids are known."""
    try:
        return load_tokenizer(path) if Path(path).is_dir() else None
    except DataError:
        return None
