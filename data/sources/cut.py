"""A stream of bytes, cut between records: as early as a size allows, so that the cuts do not depend on how the bytes arrived."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .chunk import CHUNK

# A longer record is a file of another kind (a JSON array on one line, a disk image); holding it could take all memory.
MOST_RECORD = 1 << 28
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_DOUBLED = re.compile(rb'(?:[^"]+|"")*+')  # possessive, so that nothing is gone back over
HEAD = 4  # bytes of a piece whose data nobody wants: enough for a byte order mark
_OVERLAP = 64  # bytes kept of a record that is being dropped: longer than any marker


@dataclass(frozen=True)
class Piece:
    """Whole records, end to end; `data` is only their head where nobody wants more; `dropped`: a single one, too long to keep."""

    data: bytes
    size: int
    line_feeds: int
    dropped: bool = False

    def plus(self, more: "Piece") -> "Piece":
        """A dropped record that goes on."""
        return Piece(b"", self.size + more.size, self.line_feeds + more.line_feeds, dropped=True)


class Cutter(Protocol):
    """Finds where records end, in a buffer that grows at its end and is shortened at its start."""

    def end(self, buffer: bytearray, start: int) -> int:
        """The first border between records at or behind `start`, or -1 if it has not arrived yet; `start` never goes back."""
        ...

    def forget(self, count: int) -> None:
        """The first `count` bytes of the buffer are gone."""
        ...


class Behind:
    """Records end with a marker, such as a line feed."""

    def __init__(self, marker: bytes = b"\n") -> None:
        self._marker = marker
        self._searched = 0

    def end(self, buffer: bytearray, start: int) -> int:
        """See `Cutter`."""
        length = len(self._marker)
        found = buffer.find(self._marker, max(start - length, self._searched, 0))
        self._searched = found + length if found >= 0 else max(0, len(buffer) - length + 1)
        return found + length if found >= 0 else -1

    def forget(self, count: int) -> None:
        """See `Cutter`."""
        self._searched = max(0, self._searched - count)


class Never:
    """The whole file is one record."""

    def end(self, buffer: bytearray, start: int) -> int:
        """See `Cutter`."""
        return -1

    def forget(self, count: int) -> None:
        """See `Cutter`."""


class BehindBlankLine:
    """Paragraphs end with a line feed and a blank line."""

    def __init__(self) -> None:
        self._searched = 0

    def end(self, buffer: bytearray, start: int) -> int:
        """See `Cutter`."""
        search = max(start - 2, self._searched, 0)
        while found := _BLANK_LINE.search(buffer, search):
            self._searched = search = max(found.end() - 1, found.start() + 1)  # that line feed may begin the next blank line
            if found.end() >= start:
                return found.end()
        self._searched = max(search, buffer.rfind(b"\n"))
        return -1

    def forget(self, count: int) -> None:
        """See `Cutter`."""
        self._searched = max(0, self._searched - count)


class OutsideQuotes:
    """Rows of separated values end with a line feed that no quoted field holds.

    A field is quoted where it begins with a quotation mark (RFC 4180, and Python's csv); one inside of another field is a character as any.
    Counting them all would take what follows a single 5" for one endless row.

    Args:
        delimiter: between fields, one byte.
    """

    def __init__(self, delimiter: bytes = b",") -> None:
        self._before_field = delimiter + b"\n"
        begin = rb"(?:\A|(?<=[\n%s]))" % re.escape(delimiter)
        # Whole quoted fields, other marks, and all between; it stops before a field whose end is not to be seen.
        self._skipped = re.compile(rb'(?:[^"]++|%s"(?:[^"]++|"")*+"(?=[^"])|(?!%s)")*+' % (begin, begin))
        self._at = 0  # up to here it is known what is quoted
        self._quoted = False

    def end(self, buffer: bytearray, start: int) -> int:
        """See `Cutter`."""
        if not self._quoted and self._at < start - 1:
            skipped = self._skipped.match(buffer, self._at, start - 1)
            assert skipped
            self._at = skipped.end()
        while True:
            if self._quoted and not self._close(buffer):
                return -1
            feed = buffer.find(b"\n", max(start - 1, self._at))
            mark = buffer.find(b'"', self._at, len(buffer) if feed < 0 else feed)
            if mark < 0:
                self._at = feed + 1 if feed >= 0 else len(buffer)
                return feed + 1 if feed >= 0 else -1
            self._at = mark + 1
            self._quoted = mark == 0 or buffer[mark - 1] in self._before_field

    def _close(self, buffer: bytearray) -> bool:
        """Goes behind the mark that ends a quoted field; two in a row are one inside of it."""
        inside = _DOUBLED.match(buffer, self._at)
        assert inside
        self._at = inside.end()
        if self._at + 1 >= len(buffer):
            return False  # not there yet, or the next byte may double it
        self._at += 1
        self._quoted = False
        return True

    def forget(self, count: int) -> None:
        """See `Cutter`."""
        self._at = max(0, self._at - count)


def pieces(
    stream: Iterable[bytes], make: Callable[[], Cutter], *, least: int = CHUNK, most: int = MOST_RECORD, keep: bool = True
) -> Iterator[Piece]:
    """Cuts a stream into pieces of whole records.

    Args:
        stream: the bytes from the beginning of a record on.
        make: gives what says where records end.
        least: bytes of a piece; it ends with the record that reaches them.
        most: bytes of a record that is kept; at least `least`.
        keep: the pieces hold their bytes; else only their first ones.
    """
    buffer, cutter = _Buffer(keep), make()
    lost: Piece | None = None  # the record that is being dropped
    for data in stream:
        buffer.bytes += data
        while (lost or len(buffer.bytes) >= least) and (end := cutter.end(buffer.bytes, 1 if lost else least)) >= 0:
            if lost:
                yield lost.plus(buffer.take(end, cutter))
                lost = None
            else:
                yield from _checked(buffer, end, cutter, _last_border(buffer.bytes, make(), least - 1) if end > most else 0, most)
        if not lost and len(buffer.bytes) > most + least:
            if before := _last_border(buffer.bytes, make(), least - 1):
                yield buffer.take(before, cutter)
            lost = Piece(b"", 0, 0, dropped=True)
        if lost:
            lost = lost.plus(buffer.take(max(0, len(buffer.bytes) - _OVERLAP), cutter))
    size = len(buffer.bytes)
    if lost:
        yield lost.plus(buffer.take(size, cutter))
    elif size:
        yield from _checked(buffer, size, cutter, _last_border(buffer.bytes, make(), least - 1) if size > most else 0, most)


class _Buffer:
    """What has arrived and is not cut yet."""

    def __init__(self, keep: bool) -> None:
        self.bytes = bytearray()
        self._keep = keep

    def take(self, count: int, cutter: Cutter) -> Piece:
        """The first bytes, which are gone then."""
        with memoryview(self.bytes) as view:
            taken = bytes(view[: count if self._keep else min(count, HEAD)])
        piece = Piece(taken, count, self.bytes.count(b"\n", 0, count))
        del self.bytes[:count]
        cutter.forget(count)
        return piece


def _checked(buffer: _Buffer, end: int, cutter: Cutter, last: int, most: int) -> Iterator[Piece]:
    """The piece up to `end`, or, where its last record, from `last` on, is longer than `most`, the others and a dropped one."""
    if end - last <= most:
        yield buffer.take(end, cutter)
        return
    if last:
        yield buffer.take(last, cutter)
    yield Piece(b"", 0, 0, dropped=True).plus(buffer.take(end - last, cutter))


def _last_border(buffer: bytearray, cutter: Cutter, until: int) -> int:
    border = 0
    while 0 <= (end := cutter.end(buffer, border + 1)) <= until:
        border = end
    return border
