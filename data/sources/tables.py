"""Rows of Parquet and Arrow files: one column of text, about 1 MiB at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from ..errors import DataError
from .blocks import Texts
from .chunk import Place
from .source import Source

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 128  # at a time; more of a large text would fill the memory

WAY = "set text_key= to the column of the text"


def parquet_blocks(raw: BinaryIO, source: Source, text_key: str, place: Place, size: int) -> Iterator[tuple[Texts, int, Place]]:
    """(block, bytes of its texts, place behind it) of the rows from `place` on; `size`: bytes that end a block.

    Raises:
        DataError: no such column of text, or the file is damaged.
    """
    import pyarrow.parquet as pq

    with _damage(source.path, "Parquet"), pq.ParquetFile(raw, memory_map=False, pre_buffer=False) as file:
        check_column(file.schema_arrow, source.path, text_key)
        rows, before = _Rows(source.path, place, size, source.size / max(1, file.metadata.num_rows)), 0
        for group in range(file.num_row_groups):
            behind = before + file.metadata.row_group(group).num_rows
            if behind > place.offset:
                # Group by group: so a batch begins at the same rows, wherever reading began.
                batches = file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[text_key], use_threads=False)
                for batch in batches:
                    yield from rows.blocks(batch.column(0), before)
                    before += batch.num_rows
            before = behind


def arrow_blocks(raw: BinaryIO, source: Source, text_key: str, place: Place, size: int) -> Iterator[tuple[Texts, int, Place]]:
    """The same for Arrow IPC, files and streams; `place.consumed` is only known of the rows read."""
    import pyarrow as pa

    magic = raw.read(6)
    raw.seek(0)
    with _damage(source.path, "Arrow"), pa.ipc.open_file(raw) if magic == b"ARROW1" else pa.ipc.open_stream(raw) as reader:
        check_column(reader.schema, source.path, text_key)
        rows, before = _Rows(source.path, place, size), 0
        index = reader.schema.get_field_index(text_key)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if magic == b"ARROW1" else iter(reader)
        for batch in batches:
            if before + batch.num_rows > place.offset:
                for block, length, behind in rows.blocks(batch.column(index), before):
                    yield block, length, replace(behind, consumed=min(source.size, raw.tell()))
            before += batch.num_rows


def check_column(schema: "pa.Schema", path: str, text_key: str) -> None:
    """Refuses a table without a column of text of that name."""
    import pyarrow as pa

    columns = {field.name: field.type for field in schema}
    kind = columns.get(text_key)
    if kind is None:
        raise DataError(f"{path} has no column {text_key}; its columns are {', '.join(columns)}", do=WAY, file=path)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise DataError(f"{path}: column {text_key} is {kind}, not text", do=WAY, file=path)


@contextmanager
def _damage(path: str, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # from the operating system; pyarrow's own, about missing bytes, has no number
        raise DataError(f"{path} is no {kind} file, or damaged: {error}", do="copy the file again from its source", file=path) from error


@dataclass(frozen=True)
class _Rows:
    """Cuts the rows of a column into blocks.

    Args:
        path: of the file.
        start: rows before it are left out.
        size: bytes that end a block.
        bytes_a_row: of the file; only for progress.
    """

    path: str
    start: Place
    size: int
    bytes_a_row: float = 0.0

    def blocks(self, column: "pa.Array", before: int) -> Iterator[tuple[Texts, int, Place]]:
        """The blocks of a column whose first row is the row `before` of the file."""
        for at in range(0, len(column), _ROWS):
            data = _as_bytes(column.slice(at, _ROWS))
            row = before + at
            skip = min(len(data), max(0, self.start.offset - row))
            yield from self._cut(data[skip:], row + skip)

    def _cut(self, data: list[bytes | None], row: int) -> Iterator[tuple[Texts, int, Place]]:
        rows: list[bytes | None] = []
        held = 0
        for number, text in enumerate(data, 1):
            rows.append(text)
            held += len(text or b"")
            if held >= self.size or number == len(data):
                behind = row + len(rows)
                place = Place(self.start.source, behind, behind + 1, consumed=int(behind * self.bytes_a_row))
                yield Texts(self.path, row + 1, rows), held, place
                row, rows, held = behind, [], 0


def _as_bytes(column: "pa.Array") -> list[bytes | None]:
    """As bytes: a row that is not UTF-8 is one bad record, not the end of the run."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        return column.cast(pa.binary_view()).to_pylist()
    return column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary()).to_pylist()
