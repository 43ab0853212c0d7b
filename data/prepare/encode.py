"""What a worker of `prepare` does with a chunk: clean its documents, sample them for the tokenizer's training, or encode them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..clean.cleaner import Cleaner, Removed
from ..clean.duplicates import EXACT
from ..clean.report import EXACT_DUPLICATES, NEAR_DUPLICATES, CleanReport
from ..clean.settings import CleanSettings
from ..clean.signatures import SignatureShape, Signer
from ..hashes import document_hash
from ..sources.chunk import Chunk
from ..sources.document import Document, Rejected, Skipped
from ..tokenizer.tokenizer import Tokenizer, load_tokenizer
from .origin_list import OriginList
from .store import Frame, StoredDocument, pack
from .tally import Result

T = TypeVar("T")

_SAMPLE_PART = 1 << 20  # bytes of one document that the training of a tokenizer may see
_LONG = 1 << 18  # characters; a longer text is encoded for itself, so that its ids never are a list of Python integers


@dataclass
class Cleaned(Result):
    """The documents that stay, packed; their signatures; the report about this chunk."""

    frame: Frame = field(default_factory=lambda: Frame(b"", 0))
    signatures: bytes = b""
    report: CleanReport | None = None


@dataclass
class Sampled(Result):
    """Documents for the tokenizer's training: (hash, the first MiB of the text)."""

    texts: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Ids:
    """Documents end to end, each with its end-of-document id: ids (tokens,), lengths (documents,) int64."""

    ids: np.ndarray
    lengths: np.ndarray


@dataclass
class Encoded(Result):
    """The documents of a chunk by part.

    Args:
        parts: their ids.
        files: the raw files that they came from, in the order in which they were read.
        origins: of each part int64 (documents, 2): number in `files`, and line.
        removed: what duplicates take out of the report of the cleaning.
    """

    parts: dict[str, Ids] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    origins: dict[str, np.ndarray] = field(default_factory=dict)
    removed: CleanReport | None = None


@dataclass(frozen=True)
class ReportShape:
    """The rows of a cleaning report, and how many examples each keeps."""

    rows: list[str]
    examples: int

    def blank(self) -> CleanReport:
        """With nothing counted."""
        return CleanReport(self.rows, self.examples)


def task_maker(task: Callable[..., T], *settings: Any) -> Callable[[], T]:
    """What `Workers` sends to each process: makes the task there, so that a tokenizer is loaded where it is used."""
    return partial(task, *settings)


class CleanTask:
    """Cleans the documents of a chunk.

    Args:
        settings: which rules.
        report: its shape.
        signatures: their shape, for the search for duplicates; None: there is none.
    """

    def __init__(self, settings: CleanSettings, report: ReportShape, signatures: SignatureShape | None) -> None:
        self._cleaner = Cleaner(settings)
        self._report = report
        self._sign = Signer(signatures) if signatures else None

    def __call__(self, chunk: Chunk) -> Cleaned:
        report = self._report.blank()
        cleaned = Cleaned(read=chunk.read, report=report)
        kept = []
        for document in _usable(chunk, cleaned):
            data = document.text.encode()
            cleaned.tally.document(len(data), 0)
            outcome = self._cleaner(document)
            report.add(document, outcome)
            if not isinstance(outcome, Removed):
                data = data if outcome.text is document.text else outcome.text.encode()
                kept.append(StoredDocument(outcome.text, data, document_hash(data), document.file, document.line))
        cleaned.frame = pack(kept)
        if self._sign:
            cleaned.signatures = self._sign([document.text for document in kept]).tobytes()
        return cleaned


class SampleTask:
    """Samples a chunk for the training of a tokenizer."""

    def __call__(self, item: tuple[Chunk | Frame, int, int]) -> Sampled:
        """Takes a chunk, and the least and the largest hash of the documents that are wanted."""
        chunk, least, most = item
        sampled = Sampled(read=chunk.read)
        for document in documents(chunk, sampled):
            if least <= document.hash <= most:
                whole = len(document.data) <= _SAMPLE_PART
                text = document.text if whole else document.data[:_SAMPLE_PART].decode(errors="ignore")
                sampled.texts.append((document.hash, text))
        return sampled


class EncodeTask:
    """Encodes a chunk.

    Args:
        tokenizer: folder that `save_tokenizer` wrote.
        threshold: documents with a smaller hash go to the validation part.
        dtype: of the ids.
        report: of the cleaning; None: nothing was cleaned.
    """

    def __init__(self, tokenizer: Path, threshold: int, dtype: np.dtype, report: ReportShape | None) -> None:
        self._tokenizer = load_tokenizer(tokenizer)
        self._threshold = threshold
        self._dtype = dtype
        self._report = report

    def __call__(self, chunk: Chunk | Frame) -> Encoded:
        removed = self._report.blank() if self._report else None
        encoded = Encoded(read=chunk.read, removed=removed)
        parts: dict[str, list[str]] = {"train": [], "validation": []}
        origins = OriginList(list(parts))
        for document in documents(chunk, encoded, removed):
            name = "validation" if document.hash < self._threshold else "train"
            parts[name].append(document.text)
            origins.add(name, document.file, document.line)
        encoded.files, encoded.origins = origins.files, origins.arrays()
        encoded.parts = {name: encode_documents(self._tokenizer, texts, self._dtype) for name, texts in parts.items()}
        return encoded


def encode_documents(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype) -> Ids:
    """Encodes texts and ends each with the end-of-document id."""
    encoded = tokenizer.encode_batch(texts, close=True, dtype=dtype)
    return Ids(encoded.ids, encoded.lengths)


def documents(chunk: Chunk | Frame, result: Result, removed: CleanReport | None = None) -> Iterator[StoredDocument]:
    """The usable documents of a chunk; everything else is counted.

    Args:
        chunk: raw records, or documents that were cleaned before.
        result: where to count.
        removed: where to count the duplicates.
    """
    for document in _stored(chunk, result, removed) if isinstance(chunk, Frame) else _raw(chunk, result):
        result.tally.document(len(document.data), document.hash)
        yield document


def _stored(frame: Frame, result: Result, removed: CleanReport | None) -> Iterator[StoredDocument]:
    from zstandard import ZstdError

    try:
        for i, document in enumerate(frame.unpack()):
            code = frame.gone[i] if frame.gone else 0
            if not code:
                yield document
            elif removed:
                # Where only near duplicates are sought, equal texts are those of similarity 1.
                rule = EXACT_DUPLICATES if code == EXACT and EXACT_DUPLICATES in removed.rows else NEAR_DUPLICATES
                removed.remove(rule, Document(document.text, document.file, document.line), rule)
    except (ZstdError, ValueError):
        result.damaged = True


def _raw(chunk: Chunk, result: Result) -> Iterator[StoredDocument]:
    for document in _usable(chunk, result):
        assert document.kind != "html", f"{document.file}: a page goes through the cleaning pass"
        data = document.text.encode()
        yield StoredDocument(document.text, data, document_hash(data), document.file, document.line)


def _usable(chunk: Chunk, result: Result) -> Iterator[Document]:
    """The documents among the records; the others are counted."""
    tally = result.tally
    for outcome in chunk.documents():
        tally.records += 1
        if isinstance(outcome, Skipped):
            tally.skip(outcome.cause)
        elif isinstance(outcome, Rejected):
            tally.reject(outcome.cause)
            result.rejects.append(outcome)
        else:
            yield outcome
