"""The texts of evaluation sets: whole text files, and every string of JSON and of Parquet rows, however deep."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from ..errors import DataError
from ..sources.blocks import FileSlice, JsonFile, JsonLines
from ..sources.chunk import Block
from ..sources.document import Document
from ..sources.find import find_sources
from ..sources.read import read_chunks
from ..sources.source import Source

_ROWS = 1024  # of a table at once


def evaluation_texts(file: str, keys: Sequence[str] = ()) -> Iterator[str]:
    """All texts of the files that an entry names.

    Args:
        file: a file, a folder or a glob; text, JSON or JSON lines (.gz, .zst ...), or Parquet.
        keys: of the fields to take from JSON objects and tables; empty takes every string.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    for source in evaluation_sources(file):
        if PurePath(source.path).suffix == ".parquet":
            yield from _table_texts(source.path, keys)
            continue
        for chunk in read_chunks([source], text_key="text"):
            for block in chunk.blocks:
                yield from _block_texts(block.opened() if isinstance(block, FileSlice) else block, keys)


def evaluation_sources(file: str) -> list[Source]:
    """The files that an entry names; see `evaluation_texts`.

    Raises:
        DataError: there is none.
    """
    try:
        return find_sources([file]).sources
    except DataError as error:
        message = f"clean.decontamination.files: {str(error).removeprefix('input=')}"
        raise DataError(message, do=error.do, file=error.file) from error


def _block_texts(block: Block, keys: Sequence[str]) -> Iterator[str]:
    if isinstance(block, JsonLines):
        for number, line in enumerate(block.data.split(b"\n"), block.first_line):
            if line.strip():
                yield from _chosen(_value(line, block.file, number), keys)
        return
    if isinstance(block, JsonFile):
        value = _value(block.data, block.file, block.first_line)
        for each in value if isinstance(value, list) else [value]:
            yield from _chosen(each, keys)
        return
    for found in block.documents():
        if isinstance(found, Document):
            yield found.text
        elif found.cause != "empty":
            raise _not_text(found.file, found.line, found.cause)


def _value(data: bytes, file: str, line: int) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_text(file, line, "broken_json") from error


def _table_texts(path: str, keys: Sequence[str]) -> Iterator[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS):
                for record in batch.to_pylist():
                    yield from _chosen(record, keys)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}", do="copy the file again from its source", file=path) from error


def _chosen(record: Any, keys: Sequence[str]) -> Iterator[str]:
    if keys and isinstance(record, dict):
        yield from _strings([record[key] for key in keys if key in record])
    else:
        yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple | dict):
            waiting += reversed(list(value.values() if isinstance(value, dict) else value))


def _not_text(file: str, line: int, cause: str) -> DataError:
    return DataError(f"{file}:{line} of an evaluation set: {cause}", do="repair or leave out the file in clean.decontamination.files",
                     file=file)
