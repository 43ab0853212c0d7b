"""Files to a stream of chunks of raw records that do not depend on who works on them.

Reading and decompressing happens here, in one process; what a record holds is looked at in the workers (`Chunk.documents`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from ..errors import DataError
from .blocks import CodeFile, FileSlice, JsonFile, JsonLines, Paragraphs, Texts, TooLong
from .chunk import CHUNK, Block, Chunk, Place
from .cut import Behind, BehindBlankLine, Cutter, Never, OutsideQuotes, pieces
from .decompress import Stream
from .formats import compression_by_start, compression_of, format_by_name, format_by_start
from .line_borders import line_pieces
from .opening import is_remote, open_source
from .separated import Rows, text_column
from .source import Source
from .tables import arrow_blocks, parquet_blocks
from .warc import WarcCutter, WarcRecords, count_records
from .wikipedia import HEADER_END, PAGE_END, Pages, Site, count_pages

_BOM = b"\xef\xbb\xbf"
_START = 4096  # bytes that are looked at to tell a format
_WHOLE = 1 << 27  # bytes; a longer text is cut behind a line into several documents, or it would take all memory
_SLICE = 1 << 16  # bytes; a smaller file is sent to a worker as quickly as it opens it
_LINE = 1 << 20  # bytes that are looked at where a first line of JSON is long
_MAGIC = 16
_HEADER = 1 << 18  # of a Wikipedia dump, or the first row of a table


def read_chunks(sources: Sequence[Source], *, text_key: str, start: Place | None = None, size: int = CHUNK) -> Iterator[Chunk]:
    """All records of the files, in order, grouped into chunks of about 1 MiB; a longer record is a chunk of its own.

    Args:
        sources: as `find_sources` gives them.
        text_key: key of the text in JSON lines, its column in a table; a source may have its own.
        start: `next` of an earlier chunk of the same sources: then exactly the chunks behind that one.
        size: bytes of raw records that end a chunk.

    Raises:
        DataError: a file cannot be read, is damaged or truncated, or is a table without that column of text.
    """
    first = start or Place()
    blocks: list[Block] = []
    held = read = 0
    for number, source in enumerate(sources[first.source :], first.source):
        begin = first if number == first.source else Place(number)
        consumed = begin.consumed
        for block, length, behind in _blocks(source, source.text_key or text_key, begin, size):
            blocks.append(block)
            held += length
            read += max(0, behind.consumed - consumed)
            consumed = max(behind.consumed, consumed)
            if held >= size:
                yield Chunk(blocks, read, behind, held)
                blocks, held, read = [], 0, 0
        read += max(0, source.size - consumed)
    if blocks or read:
        yield Chunk(blocks, read, Place(len(sources)), held)


def _blocks(source: Source, text_key: str, place: Place, size: int) -> Iterator[tuple[Block, int, Place]]:
    """(block, its bytes, the place behind it)."""
    with _as_data_errors(source.path):
        compression, kind = _format(source)
        if kind in ("parquet", "arrow"):
            table_blocks = parquet_blocks if kind == "parquet" else arrow_blocks
            with open_source(source) as raw:
                yield from table_blocks(raw, source, text_key, place, size)
            return
        form = _form(source, compression, kind, text_key)
        with open_source(source) as raw:
            stays = not compression and not is_remote(source.path) and source.size >= _SLICE and form.count is None
            yield from _records(source, Stream(raw, compression, place), form, place, size, stays=stays)


def _format(source: Source) -> tuple[str, str]:
    """(compression, format): by name, else by the first bytes."""
    compression, kind = compression_of(source.path), source.format or format_by_name(source.path)
    if compression and kind:
        return compression, kind
    if not compression:
        with open_source(source) as raw:
            compression = compression_by_start(raw.read(_MAGIC))
    if kind:
        return compression, kind
    start = _head(source, compression, _START)
    kind = format_by_start(start, source.path, whole=len(start) < _START)
    if not kind:  # a long first line of JSON
        longer = _head(source, compression, _LINE)
        kind = format_by_start(longer, source.path, whole=len(longer) < _LINE) or "jsonl"
    # What is found in a folder and says nothing of itself may be a program; looked at as code, it is left out.
    return compression, "code" if kind == "text" and b"\0" in start and not source.named else kind


def _head(source: Source, compression: str, size: int, until: bytes = b"") -> bytes:
    """The first bytes: up to `size`, or up to the first `until`."""
    head = b""
    with open_source(source) as raw:
        for data in Stream(raw, compression, Place()).pieces():
            head += data
            if len(head) >= size or (until and until in head):
                break
    return head[:size].partition(until)[0] + until if until and until in head[:size] else head[:size]


@dataclass(frozen=True)
class _Form:
    """How the records of a format are told apart, and what becomes of them: (file, first line, data) -> block."""

    block: Callable[[str, int, bytes], Block]
    cutter: Callable[[], Cutter] = Behind
    least: int = 0  # bytes of a block, if not those of a chunk
    count: Callable[[bytes], int] | None = None  # None: line feeds
    one: bool = False  # the file is one document, also when it is empty


def _form(source: Source, compression: str, kind: str, text_key: str) -> _Form:
    if kind == "jsonl":
        return _Form(partial(JsonLines, text_key=text_key))
    if kind == "json":
        return _Form(partial(JsonFile, text_key=text_key, named=source.named), Never, one=True)
    if kind == "paragraphs":
        return _Form(Paragraphs, BehindBlankLine)
    if kind == "warc":
        return _Form(WarcRecords, WarcCutter, count=count_records)
    if kind == "wikipedia":
        site = Site.read(_head(source, compression, _HEADER, HEADER_END))
        return _Form(partial(Pages, site=site), partial(Behind, PAGE_END), count=count_pages)
    if kind in ("csv", "tsv"):
        delimiter = "," if kind == "csv" else "\t"
        column = text_column(_head(source, compression, _HEADER), delimiter, source.path, text_key)
        return _Form(partial(Rows, delimiter=delimiter, column=column), OutsideQuotes if kind == "csv" else Behind)
    if kind == "code" and not source.named:
        return _Form(CodeFile, least=_WHOLE, one=True)
    return _Form(partial(_whole, kind=kind), least=_WHOLE, one=True)


def _whole(file: str, line: int, data: bytes, *, kind: str) -> Texts:
    return Texts(file, line, [data], kind)


def _records(source: Source, stream: Stream, form: _Form, place: Place, size: int, *, stays: bool) -> Iterator[tuple[Block, int, Place]]:
    """The records of what is one stream of bytes; `stays`: they lie in the file as they are, and workers can read them there."""
    offset, line, path = place.offset, place.line, source.path
    begun = bool(offset)
    cut = line_pieces if stays and form.cutter is Behind else partial(pieces, make=form.cutter, keep=not stays)
    for piece in cut(stream.pieces(), least=form.least or size):
        mark = len(_BOM) if not begun and piece.data.startswith(_BOM) else 0
        begun = True
        block: Block
        if piece.dropped:
            block = TooLong(path, line)
        elif stays:
            block = FileSlice(path, offset + mark, piece.size - mark, line, form.block)
        else:
            block = form.block(path, line, piece.data[mark:])
        length = piece.size
        offset += length
        line += piece.line_feeds if form.count is None else 1 if piece.dropped else form.count(piece.data)
        del piece  # while the block is worked on, what is read already is not held here
        yield block, length, replace(stream.place(offset, line), source=place.source)
    if form.one and not begun:
        yield form.block(path, 1, b""), 0, Place(place.source + 1)


@contextmanager
def _as_data_errors(path: str) -> Iterator[None]:
    with _reaching(path):
        try:
            yield
        except EOFError as error:
            raise DataError(f"{path} is damaged or truncated: {error}", do="copy the file again from its source", file=path) from error
        except OSError as error:
            if is_remote(path):
                raise  # the network's errors have their own words
            message = f"{path} cannot be read: {error.strerror or error}"
            raise DataError(message, do="check the file and its permissions", file=path) from error


def _reaching(path: str) -> AbstractContextManager[None]:
    if not is_remote(path):
        return nullcontext()
    from .remote import reaching

    return reaching(path)
