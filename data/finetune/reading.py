"""JSON objects out of source files: lines of JSON, arrays of objects, and rows of tables with all their columns."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataError
from ..prepare.tally import Result
from ..sources.blocks import FileSlice, JsonFile, JsonLines
from ..sources.chunk import CHUNK, Chunk, Place
from ..sources.document import Rejected
from ..sources.find import Source
from ..sources.formats import format_by_name
from ..sources.opening import open_source
from ..sources.read import read_chunks

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

_ROWS = 64  # of a table at a time


class TaskInput:
    """What a pass over fine-tuning records goes through.

    Args:
        sources: as `find_sources` gives them.
    """

    raw = True

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(source.size for source in self._sources)

    def items(self, place: dict[str, Any] | None) -> Iterator[tuple[Chunk, dict[str, Any]]]:
        """The chunks behind a place, each with the place behind it, plain values; None: from the beginning."""
        for chunk in task_chunks(self._sources, Place(**place) if place else Place()):
            yield chunk, asdict(chunk.next)


def task_chunks(sources: Sequence[Source], start: Place) -> Iterator[Chunk]:
    """Chunks of about 1 MiB that do not depend on who works on them.

    Args:
        sources: as `find_sources` gives them.
        start: `next` of an earlier chunk; then those behind it.

    Raises:
        DataError: a file cannot be read, or is damaged.
    """
    for number, source in enumerate(sources[start.source :], start.source):
        begin = replace(start, source=0) if number == start.source else Place()
        kind = source.format or format_by_name(source.path)
        chunks = _table_chunks(source, kind, begin) if kind in ("parquet", "arrow") else read_chunks([source], text_key="", start=begin)
        for chunk in chunks:
            yield replace(chunk, next=replace(chunk.next, source=number + chunk.next.source))


def records(chunk: Chunk, result: Result) -> Iterator[tuple[dict[str, Any], str, int]]:
    """The JSON objects of a chunk with file and line; what is none is counted in `result`."""
    for block in (each.opened() if isinstance(each, FileSlice) else each for each in chunk.blocks):
        if isinstance(block, JsonLines | JsonFile):
            for line, record, cause in _lines(block) if isinstance(block, JsonLines) else _items(block):
                result.tally.records += 1
                if record is None:
                    refuse(result, block.file, line, cause)
                else:
                    yield record, block.file, line
            continue
        for outcome in block.documents():
            result.tally.records += 1
            refuse(result, outcome.file, outcome.line, outcome.cause if isinstance(outcome, Rejected) else "not_json_lines")


def refuse(result: Result, file: str, line: int, cause: str) -> None:
    """Counts a record that cannot be used; an empty one is whole."""
    if cause == "empty":
        result.tally.skip(cause)
        return
    result.tally.reject(cause)
    result.rejects.append(Rejected(file, line, cause))


def _lines(block: JsonLines) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """(line, object, cause) of each line; no object: why."""
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line feed
    for line, data in enumerate(lines, block.first_line):
        yield line, *(_parsed(data, _object) if data.strip() else (None, "empty"))


def _items(block: JsonFile) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """(number, object, cause) of each object of a file that is one array, or one object."""
    values, cause = _parsed(block.data, lambda value: (value if isinstance(value, list) else [value], ""))
    if values is None:
        yield 1, None, cause
    for number, value in enumerate(values or (), 1):
        yield number, *_object(value)


def _object(value: Any) -> tuple[dict[str, Any] | None, str]:
    return (value, "") if isinstance(value, dict) else (None, "not_an_object")


def _parsed(data: bytes, then: Callable[[Any], tuple[T | None, str]]) -> tuple[T | None, str]:
    """What `then` makes of a JSON text; None and the cause, if it is none."""
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    except (ValueError, RecursionError):  # a million open brackets are as broken as one
        return None, "broken_json"
    return then(value)


def _table_chunks(source: Source, kind: str, begin: Place) -> Iterator[Chunk]:
    """Rows as lines of JSON; what JSON cannot hold (dates, bytes) is spelled out."""
    import pyarrow as pa

    try:
        lines: list[bytes] = []
        size, row, read = 0, begin.offset, begin.consumed
        for rows, done in _rows(source, kind, begin.offset):
            new = [json.dumps(each, default=str).encode() for each in rows]
            lines += new
            size += sum(map(len, new))
            if size >= CHUNK:
                behind = row + len(lines)
                yield _lines_chunk(source.path, row, lines, done - read, Place(0, behind, behind + 1, consumed=done))
                lines, size, row, read = [], 0, behind, done
        yield _lines_chunk(source.path, row, lines, source.size - read, Place(1))
    except pa.ArrowException as error:
        message = f"{source.path} is no {kind.capitalize()} file, or damaged: {error}"
        raise DataError(message, do="copy the file again from its source", file=source.path) from error
    except OSError as error:
        do = "check the file and its permissions"
        raise DataError(f"{source.path} cannot be read: {error.strerror or error}", do=do, file=source.path) from error


def _lines_chunk(path: str, row: int, lines: Sequence[bytes], read: int, behind: Place) -> Chunk:
    blocks = [JsonLines(path, row + 1, b"\n".join(lines), "")] if lines else []
    return Chunk(blocks, read, behind, sum(map(len, lines)))


def _rows(source: Source, kind: str, start: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """(rows, about how many bytes of the file were read) behind the first `start` rows."""
    for first, batch, done in _parquet_batches(source, start) if kind == "parquet" else _arrow_batches(source, start):
        skipped = max(0, start - first)
        if skipped < len(batch):
            yield batch.slice(skipped).to_pylist(), done


def _parquet_batches(source: Source, start: int) -> Iterator[tuple[int, "pa.RecordBatch", int]]:
    """(number of the first row, rows, bytes); row groups that end before `start` are not read."""
    import pyarrow.parquet as pq

    with open_source(source) as raw, pq.ParquetFile(raw, memory_map=False, pre_buffer=False) as file:
        first, total = 0, max(1, file.metadata.num_rows)
        for group in range(file.num_row_groups):
            behind = first + file.metadata.row_group(group).num_rows
            if behind > start:
                for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], use_threads=False):
                    yield first, batch, source.size * (first + len(batch)) // total
                    first += len(batch)
            first = behind


def _arrow_batches(source: Source, start: int) -> Iterator[tuple[int, "pa.RecordBatch", int]]:
    """The same for Arrow IPC, files and streams."""
    import pyarrow as pa

    with open_source(source) as raw:
        stream = raw.read(6) != b"ARROW1"
        raw.seek(0)
        with pa.ipc.open_stream(raw) if stream else pa.ipc.open_file(raw) as reader:
            batches, first = iter(reader) if stream else (reader.get_batch(i) for i in range(reader.num_record_batches)), 0
            for batch in batches:
                for at in range(0, len(batch), _ROWS):
                    yield first + at, batch.slice(at, _ROWS), min(source.size, raw.tell())
                first += len(batch)
