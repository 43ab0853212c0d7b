"""corpus.json: what a corpus folder holds, with the size and block checksums of every file (docs/design.md, data)."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from ..errors import DataError

FILE_NAME = "corpus.json"
SOURCES = "sources.jsonl"  # names of raw files, see raw_origins.py
VERSION = 1
BLOCK_BYTES = 16 * 2**20
TASKS = ("text", "chat", "classification", "preference")
ARRAY_BYTES = {"uint8": 1, "int32": 4, "int64": 8}  # dtypes of arrays beside a token file, and the bytes of a number
PREPARE_AGAIN = "run `hexareme prepare` again, or copy the folder again from its source"


@dataclass(frozen=True, kw_only=True)
class FileDescription:
    """Size in bytes, and the XXH3-128 (hexadecimal) of each block of 16 MiB, the last one shorter."""

    size: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ArrayDescription:
    """A raw little-endian array `<part>.<name>.bin` beside a token file: `count` numbers of `dtype` (numpy's name)."""

    dtype: str
    count: int
    file: FileDescription


@dataclass(frozen=True, kw_only=True)
class PartDescription:
    """One token file (`train`, `validation`): `largest_id` is -1 where it holds no token; `dtype` is numpy's name.

    `arrays` by name, see `arrays.py`: what a task keeps beside its tokens, and where its documents came from (`raw_origins.py`).
    """

    documents: int
    tokens: int
    dtype: str
    largest_id: int
    bin: FileDescription
    idx: FileDescription
    arrays: dict[str, ArrayDescription] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TokenizerDescription:
    """Which tokenizer wrote the ids; `end_of_document` closes every document."""

    kind: str
    vocab_size: int
    end_of_document: int


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """What a document is: text, or an example of `chat`, `classification` or `preference`.

    `sequence_length`: tokens of a packed row (chat). `labels`: the label set (classification); a class id is a place in it.
    """

    kind: str = "text"
    sequence_length: int = 0
    labels: tuple[str | int | bool, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorpusDescription:
    """The whole of corpus.json; `sources`: of `sources.jsonl`, None where it is not known where documents came from."""

    version: int = VERSION
    tokenizer: TokenizerDescription
    parts: dict[str, PartDescription]
    task: TaskDescription = TaskDescription()
    sources: FileDescription | None = None


def described_files(description: CorpusDescription) -> Iterator[tuple[str, FileDescription]]:
    """Every file of a corpus that `corpus.json` tells of, by its name in the folder."""
    for name, part in description.parts.items():
        yield f"{name}.bin", part.bin
        yield f"{name}.idx", part.idx
        yield from ((f"{name}.{array}.bin", entry.file) for array, entry in part.arrays.items())
    if description.sources:
        yield SOURCES, description.sources


class BlockHasher:
    """XXH3-128 of each 16 MiB block of a stream, whatever the sizes of its writes.

    Args:
        blocks: of whole blocks that were hashed before, by a process that was interrupted.
    """

    def __init__(self, blocks: Sequence[str] = ()) -> None:
        self._blocks = list(blocks)
        self._hash = xxhash.xxh3_128()
        self._filled = 0
        self._size = BLOCK_BYTES * len(self._blocks)

    @property
    def blocks(self) -> list[str]:
        """Of the whole blocks so far."""
        return self._blocks.copy()

    @property
    def rest(self) -> str:
        """Of what follows the last whole block."""
        return self._hash.hexdigest()

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            piece = view[: BLOCK_BYTES - self._filled]
            self._hash.update(piece)
            self._filled += len(piece)
            self._size += len(piece)
            view = view[len(piece) :]
            if self._filled == BLOCK_BYTES:
                self._close_block()

    def finish(self) -> FileDescription:
        if self._filled:
            self._close_block()
        return FileDescription(size=self._size, blocks=tuple(self._blocks))

    def _close_block(self) -> None:
        self._blocks.append(self._hash.hexdigest())
        self._hash.reset()
        self._filled = 0


def unwatched() -> None:
    """The sign of progress of work that nobody watches."""


def describe_file(path: Path, tick: Callable[[], None] = unwatched) -> FileDescription:
    """Reads a file once and returns its size and block checksums, in 1 MiB of memory.

    Args:
        path: of the file.
        tick: a sign of progress after each piece.
    """
    hasher = BlockHasher()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            hasher.update(chunk)
            tick()
    return hasher.finish()


def read_description(folder: str | os.PathLike[str]) -> CorpusDescription:
    """Reads and checks `corpus.json`; touches no other file, so it is cheap on a login node.

    Raises:
        DataError: the file is missing, malformed, or of another version.
    """
    file = Path(folder) / FILE_NAME
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist: {folder} is no finished corpus", do=PREPARE_AGAIN, file=file) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", do="check the path and its permissions", file=file) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}", do=PREPARE_AGAIN, file=file) from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise DataError(f"{file} has version {version!r}, this Hexareme reads {VERSION}", do=PREPARE_AGAIN, file=file)
    try:
        return parse_description(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is malformed: {_reason(error)}", do=PREPARE_AGAIN, file=file) from error


def write_description(folder: str | os.PathLike[str], description: CorpusDescription) -> None:
    """Writes `corpus.json` aside, syncs it and renames it; the last act of `prepare`: a folder without it is unfinished."""
    write_atomically(Path(folder) / FILE_NAME, json.dumps(asdict(description), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads `path` sees the old or the new text, never a part, also after a power cut."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.writing")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_description(raw: Mapping[str, Any]) -> CorpusDescription:
    """A description from plain values, such as `dataclasses.asdict` gives.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    tokenizer, parts = raw["tokenizer"], raw["parts"]
    if not isinstance(parts, dict):
        _wrong("parts", parts)
    return CorpusDescription(
        version=VERSION,
        tokenizer=TokenizerDescription(
            kind=_text(tokenizer, "kind"),
            vocab_size=_count(tokenizer, "vocab_size"),
            end_of_document=_count(tokenizer, "end_of_document"),
        ),
        parts={name: _part(part) for name, part in parts.items()},
        task=_task(raw.get("task", {})),
        sources=_file(raw["sources"]) if raw.get("sources") else None,
    )


def _task(raw: Mapping[str, Any]) -> TaskDescription:
    """A corpus of an earlier version says nothing of a task: it is text."""
    if raw == {}:
        return TaskDescription()
    kind, labels = _text(raw, "kind"), raw["labels"]
    if kind not in TASKS:
        _wrong("task.kind", kind)
    if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
        _wrong("task.labels", labels)
    return TaskDescription(kind=kind, sequence_length=_count(raw, "sequence_length"), labels=tuple(labels))


def _part(raw: Mapping[str, Any]) -> PartDescription:
    return PartDescription(
        documents=_count(raw, "documents"),
        tokens=_count(raw, "tokens"),
        dtype=_text(raw, "dtype"),
        largest_id=_count(raw, "largest_id", least=-1),
        bin=_file(raw["bin"]),
        idx=_file(raw["idx"]),
        arrays={name: _array(array) for name, array in dict(raw.get("arrays", {})).items()},
    )


def _array(raw: Mapping[str, Any]) -> ArrayDescription:
    dtype, count, file = _text(raw, "dtype"), _count(raw, "count"), _file(raw["file"])
    if dtype not in ARRAY_BYTES or file.size != count * ARRAY_BYTES[dtype]:
        raise ValueError(f"an array of {count} {dtype} in {file.size} bytes")
    return ArrayDescription(dtype=dtype, count=count, file=file)


def _file(raw: Mapping[str, Any]) -> FileDescription:
    size, blocks = _count(raw, "size"), raw["blocks"]
    if not isinstance(blocks, list) or len(blocks) != -(-size // BLOCK_BYTES) or not all(isinstance(block, str) for block in blocks):
        raise ValueError(f"size {size} needs {-(-size // BLOCK_BYTES)} block checksums")
    return FileDescription(size=size, blocks=tuple(blocks))


def _count(raw: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        _wrong(key, value)
    return value


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw[key]
    return value if isinstance(value, str) else _wrong(key, value)


def _wrong(key: str, value: object) -> Any:
    raise ValueError(f"{key}={str(value)[:60]!r}")


def _reason(error: Exception) -> str:
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)
