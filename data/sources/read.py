"""Files to a stream of chunks of raw records that do not depend on who works on them.

Reading and decompressing happens here, in one process; what a record holds is looked at in the workers (`Chunk.documents`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from ..errors import DataError
from .blocks import JsonLines, Texts, TooLong
from .chunk import CHUNK, Block, Chunk, Place
from .cut import Behind, pieces
from .decompress import Stream
from .find import Source
from .formats import compression_by_start, compression_of, format_by_name, format_by_start
from .tables import arrow_blocks, parquet_blocks

_BOM = b"\xef\xbb\xbf"
_START = 4096  # bytes that are looked at to tell a format
_WHOLE = 1 << 27  # bytes; a longer text is cut behind a line into several documents, or it would take all memory
_READ_AHEAD = 1 << 18


def read_chunks(sources: Sequence[Source], *, text_key: str, start: Place | None = None) -> Iterator[Chunk]:
    """All records of the files, in order, grouped into chunks of about 1 MiB; a longer record is a chunk of its own.

    Args:
        sources: as `find_sources` gives them.
        text_key: key of the text in JSON lines, its column in a table; a source may have its own.
        start: `next` of an earlier chunk of the same sources: then exactly the chunks behind that one.

    Raises:
        DataError: a file cannot be read, is damaged or truncated, or is a table without that column of text.
    """
    first = start or Place()
    blocks: list[Block] = []
    size = read = 0
    for number, source in enumerate(sources[first.source :], first.source):
        begin = first if number == first.source else Place(number)
        consumed = begin.consumed
        for block, length, behind in _blocks(source, source.text_key or text_key, begin):
            blocks.append(block)
            size += length
            read += max(0, behind.consumed - consumed)
            consumed = max(behind.consumed, consumed)
            if size >= CHUNK:
                yield Chunk(blocks, read, behind, size)
                blocks, size, read = [], 0, 0
        read += max(0, source.size - consumed)
    if blocks or read:
        yield Chunk(blocks, read, Place(len(sources)), size)


def _blocks(source: Source, text_key: str, place: Place) -> Iterator[tuple[Block, int, Place]]:
    """(block, its bytes, the place behind it)."""
    with _as_data_errors(source.path), open(source.path, "rb", buffering=_READ_AHEAD) as raw:
        compression, kind = _format(source, raw)
        if kind in ("parquet", "arrow"):
            yield from (parquet_blocks if kind == "parquet" else arrow_blocks)(raw, source.path, source.size, text_key, place)
            return
        yield from _records(source, Stream(raw, compression, place), kind, text_key, place)


def _format(source: Source, raw: BinaryIO) -> tuple[str, str]:
    """(compression, format): by name, else by the first bytes."""
    compression, kind = compression_of(source.path), source.format or format_by_name(source.path)
    if compression and kind:
        return compression, kind
    start = raw.read(_START)
    raw.seek(0)
    compression = compression or compression_by_start(start)
    if not kind:
        start = next(Stream(raw, compression, Place()).pieces(), b"") if compression else start
        raw.seek(0)
        kind = format_by_start(start[:_START], source.path.lower())
    return compression, kind


def _records(source: Source, stream: Stream, kind: str, text_key: str, place: Place) -> Iterator[tuple[Block, int, Place]]:
    """The records of what is one stream of bytes."""
    offset, line, path = place.offset, place.line, source.path
    least = CHUNK if kind == "jsonl" else _WHOLE
    empty = True
    for piece in pieces(stream.pieces(), Behind, least=least):
        empty = False
        data = piece.data.removeprefix(_BOM) if not offset else piece.data
        block: Block
        if piece.dropped:
            block = TooLong(path, line)
        elif kind == "jsonl":
            block = JsonLines(path, line, data, text_key)
        else:
            block = Texts(path, line, [data], kind if kind in ("code", "html") else "text")
        offset, line = offset + piece.size, line + piece.line_feeds
        yield block, piece.size, replace(stream.place(offset, line), source=place.source)
    if empty and not offset and kind != "jsonl":
        yield Texts(path, 1, [b""]), 0, Place(place.source + 1)


@contextmanager
def _as_data_errors(path: str) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise DataError(f"{path} is damaged or truncated: {error}", do="copy the file again from its source", file=path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", do="check the file and its permissions", file=path) from error
