"""JSON objects out of source files: lines of JSON, arrays of objects, and rows of tables with all their columns."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import DataError
from ..prepare.tally import Result
from ..sources.blocks import FileSlice, JsonFile, JsonLines
from ..sources.chunk import CHUNK, Chunk, Place
from ..sources.document import Rejected
from ..sources.find import Source
from ..sources.formats import format_by_name
from ..sources.opening import open_source
from ..sources.read import read_chunks

T = TypeVar("T")

_ROWS = 64  # of a table at a time


def task_chunks(sources: Sequence[Source]) -> Iterator[Chunk]:
    """Chunks of about 1 MiB that do not depend on who works on them.

    Args:
        sources: as `find_sources` gives them.

    Raises:
        DataError: a file cannot be read, or is damaged.
    """
    for source in sources:
        kind = source.format or format_by_name(source.path)
        if kind in ("parquet", "arrow"):
            yield from _table_chunks(source, kind)
        else:
            yield from read_chunks([source], text_key="")


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


def _table_chunks(source: Source, kind: str) -> Iterator[Chunk]:
    """Rows as lines of JSON; what JSON cannot hold (dates, bytes) is spelled out."""
    import pyarrow as pa

    try:
        lines, size, row, read = [], 0, 1, 0
        for rows, done in _rows(source, kind):
            lines += [json.dumps(each, default=str).encode() for each in rows]
            size += sum(map(len, lines[-len(rows) :]))
            if size >= CHUNK:
                yield Chunk([JsonLines(source.path, row, b"\n".join(lines), "")], done - read, Place(), size)
                row, read = row + len(lines), done
                lines, size = [], 0
        yield Chunk([JsonLines(source.path, row, b"\n".join(lines), "")] if lines else [], source.size - read, Place(), size)
    except pa.ArrowException as error:
        message = f"{source.path} is no {kind.capitalize()} file, or damaged: {error}"
        raise DataError(message, do="copy the file again from its source", file=source.path) from error
    except OSError as error:
        do = "check the file and its permissions"
        raise DataError(f"{source.path} cannot be read: {error.strerror or error}", do=do, file=source.path) from error


def _rows(source: Source, kind: str) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """(rows, about how many bytes of the file were read)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with open_source(source) as raw, pq.ParquetFile(raw, memory_map=False, pre_buffer=False) as file:
            seen, total = 0, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                seen += len(batch)
                yield batch.to_pylist(), source.size * seen // total
        return
    with open_source(source) as raw:
        stream = raw.read(6) != b"ARROW1"
        raw.seek(0)
        with pa.ipc.open_stream(raw) if stream else pa.ipc.open_file(raw) as reader:
            batches = iter(reader) if stream else (reader.get_batch(i) for i in range(reader.num_record_batches))
            for batch in batches:
                for start in range(0, len(batch), _ROWS):
                    yield batch.slice(start, _ROWS).to_pylist(), min(source.size, raw.tell())
