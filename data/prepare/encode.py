"""What a worker of `prepare` does with a chunk: look at each record, then sample it for the tokenizer's training or encode it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..hashes import HASHES, document_hash
from ..tokenizer.tokenizer import Tokenizer, load_tokenizer
from .sources import Chunk, JsonLines

T = TypeVar("T")

_SAMPLE_PART = 1 << 20  # bytes of one document that the training of a tokenizer may see
_LONG = 1 << 18  # characters; a longer text is encoded for itself, so that its ids never are a list of Python integers


@dataclass(frozen=True)
class Document:
    """A text, its UTF-8, and the XXH3-64 of that."""

    text: str
    data: bytes
    hash: int


@dataclass(frozen=True)
class Reject:
    """A record that cannot be used; `line` counts from 1, in a Parquet file it is the row."""

    file: str
    line: int
    cause: str


@dataclass
class Tally:
    """What was seen so far; `text_bytes` of UTF-8, `smallest_hash` of the documents."""

    records: int = 0
    documents: int = 0
    empty: int = 0
    text_bytes: int = 0
    smallest_hash: int = HASHES
    causes: dict[str, int] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        return sum(self.causes.values())

    def reject(self, cause: str, count: int = 1) -> None:
        """Counts bad records."""
        self.causes[cause] = self.causes.get(cause, 0) + count

    def add(self, other: "Tally") -> None:
        """Joins the counts of a later chunk."""
        self.records += other.records
        self.documents += other.documents
        self.empty += other.empty
        self.text_bytes += other.text_bytes
        self.smallest_hash = min(self.smallest_hash, other.smallest_hash)
        for cause, count in other.causes.items():
            self.reject(cause, count)


@dataclass
class Result:
    """What comes back for each chunk, whatever was done with it; `read`: the bytes of input files that it stands for."""

    read: int = 0
    tally: Tally = field(default_factory=Tally)
    rejects: list[Reject] = field(default_factory=list)


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
    """The documents of a chunk by part."""

    parts: dict[str, Ids] = field(default_factory=dict)


def task_maker(task: Callable[..., T], *settings: Any) -> Callable[[], T]:
    """What `Workers` sends to each process: makes the task there, so that a tokenizer is loaded where it is used."""
    return partial(task, *settings)


class SampleTask:
    """Samples a chunk for the training of a tokenizer.

    Args:
        text_key: key of the text in JSON lines.
    """

    def __init__(self, text_key: str) -> None:
        self._text_key = text_key

    def __call__(self, item: tuple[Chunk, int, int]) -> Sampled:
        """Takes a chunk, and the least and the largest hash of the documents that are wanted."""
        chunk, least, most = item
        sampled = Sampled(read=chunk.read)
        for document in documents(chunk, self._text_key, sampled):
            if least <= document.hash <= most:
                whole = len(document.data) <= _SAMPLE_PART
                text = document.text if whole else document.data[:_SAMPLE_PART].decode(errors="ignore")
                sampled.texts.append((document.hash, text))
        return sampled


class EncodeTask:
    """Encodes a chunk.

    Args:
        text_key: key of the text in JSON lines.
        tokenizer: folder that `save_tokenizer` wrote.
        threshold: documents with a smaller hash go to the validation part.
        dtype: of the ids.
    """

    def __init__(self, text_key: str, tokenizer: Path, threshold: int, dtype: np.dtype) -> None:
        self._text_key = text_key
        self._tokenizer = load_tokenizer(tokenizer)
        self._threshold = threshold
        self._dtype = dtype

    def __call__(self, chunk: Chunk) -> Encoded:
        encoded = Encoded(read=chunk.read)
        parts: dict[str, list[str]] = {"train": [], "validation": []}
        for document in documents(chunk, self._text_key, encoded):
            parts["validation" if document.hash < self._threshold else "train"].append(document.text)
        encoded.parts = {name: encode_documents(self._tokenizer, texts, self._dtype) for name, texts in parts.items()}
        return encoded


def encode_documents(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype) -> Ids:
    """Encodes texts and ends each with the end-of-document id."""
    short = [text for text in texts if len(text) <= _LONG]
    batch = iter(tokenizer.encode_batch(short))
    end = np.array([tokenizer.end_of_document], dtype)
    arrays: list[np.ndarray] = []
    lengths = []
    for text in texts:
        parts = [text] if len(text) <= _LONG else tokenizer.parts(text)
        ids = [np.array(next(batch), dtype)] if len(text) <= _LONG else [np.array(tokenizer.encode(part), dtype) for part in parts]
        arrays += [*ids, end]
        lengths.append(sum(map(len, ids)) + 1)
    return Ids(np.concatenate(arrays) if arrays else np.empty(0, dtype), np.array(lengths, np.int64))


def documents(chunk: Chunk, text_key: str, result: Result) -> Iterator[Document]:
    """The usable documents of a chunk; everything else is counted in `result`."""
    tally = result.tally
    for block in chunk.blocks:
        for line, record in block.records():
            tally.records += 1
            text, cause = _line_text(record, text_key) if isinstance(block, JsonLines) else _plain_text(record)
            if not cause and not text:
                tally.empty += 1
                continue
            try:
                data = text.encode()
            except UnicodeEncodeError:  # "\ud800" is legal JSON, but no text
                cause = "lone_surrogate"
            if cause:
                tally.reject(cause)
                result.rejects.append(Reject(block.file, line, cause))
                continue
            document = Document(text, data, document_hash(data))
            tally.documents += 1
            tally.text_bytes += len(data)
            tally.smallest_hash = min(tally.smallest_hash, document.hash)
            yield document


def _plain_text(record: bytes | None) -> tuple[str, str]:
    """(text, "") or ("", cause)."""
    if record is None:
        return "", "missing_key"
    try:
        return record.decode(), ""
    except UnicodeDecodeError:
        return "", "invalid_utf8"


def _line_text(record: bytes | None, text_key: str) -> tuple[str, str]:
    """(text, "") or ("", cause); a blank line is an empty text."""
    line, cause = _plain_text(record)
    if cause or not line.strip():
        return "", cause
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # a million open brackets are as broken as one
        return "", "broken_json"
    if not isinstance(value, dict):
        return "", "not_an_object"
    if text_key not in value:
        return "", "missing_key"
    text = value[text_key]
    return (text, "") if isinstance(text, str) else ("", "wrong_type")
