"""Web archives: Common Crawl's WARC (pages with their HTTP headers) and WET (their text). Format: ISO 28500, WARC 1.1."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .document import Outcome, Rejected, Skipped, checked

if TYPE_CHECKING:
    from warcio.recordloader import ArcWarcRecord

_MOST_HEADER = 1 << 20
_START = re.compile(rb"WARC/\d\.\d\r?\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_END = b"\r\n\r\n"
_HTML = ("text/html", "application/xhtml+xml")


class WarcCutter:
    """Cuts between records by their Content-Length; what is no record goes up to the next one."""

    def __init__(self) -> None:
        self._begin = self._searched = 0  # of the record that is looked at
        self._behind = -1  # where it ends, once that is known

    def end(self, buffer: bytearray, start: int) -> int:
        """See `cut.Cutter`."""
        while self._begin < start:
            if self._behind < 0:
                self._behind = self._find_end(buffer)
            if self._behind < 0 or self._behind + len(_END) > len(buffer):
                return -1
            if buffer.startswith(_END, self._behind):
                self._behind += len(_END)
            self._begin = self._searched = self._behind
            self._behind = -1
        return self._begin

    def forget(self, count: int) -> None:
        """See `cut.Cutter`."""
        self._begin -= count
        self._searched = max(0, self._searched - count)
        self._behind = -1 if self._behind < 0 else self._behind - count

    def _find_end(self, buffer: bytearray) -> int:
        begin = self._begin
        if len(buffer) - begin < len(b"WARC/1.0\r\n"):
            return -1
        if _START.match(buffer, begin):
            header = buffer.find(_END, begin, begin + _MOST_HEADER)
            if header < 0 and len(buffer) < begin + _MOST_HEADER:
                return -1
            length = _LENGTH.search(buffer, begin, header) if header >= 0 else None
            if length:
                return header + len(_END) + int(length[1])
        found = _START.search(buffer, max(begin + 1, self._searched))
        self._searched = max(begin + 1, len(buffer) - 16)
        return found.start() if found else -1


def split(data: bytes) -> list[bytes]:
    """The records of a piece; what lies between them counts as one, unless it is blank."""
    buffer, cutter = bytearray(data), WarcCutter()
    records, begin = [], 0
    while begin < len(data):
        end = cutter.end(buffer, begin + 1)
        end = len(data) if end < 0 else end
        records.append(data[begin:end])
        begin = end
    return [record for record in records if record.strip()]


def count_records(data: bytes) -> int:
    """Records in a piece."""
    return len(split(data))


@dataclass(frozen=True)
class WarcRecords:
    """Whole records of a WARC or WET file; `line` of their documents is the number of the record."""

    file: str
    first_line: int
    data: bytes

    def documents(self) -> Iterator[Outcome]:
        """One outcome for each record."""
        for number, record in enumerate(split(self.data), self.first_line):
            yield _document(record, self.file, number)


def _document(data: bytes, file: str, number: int) -> Outcome:
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    try:
        record = next(iter(ArchiveIterator(io.BytesIO(data))), None)
        if record is None:
            return Rejected(file, number, "broken_record")
        kind = record.rec_type
        if kind not in ("conversion", "response", "resource"):
            return Skipped(file, number, kind)
        held = record.raw_stream.read() if kind == "conversion" else record.content_stream().read()
        if record.length is None or len(data) < data.find(_END) + len(_END) + _content_length(data):
            return Rejected(file, number, "truncated_record")
        return _conversion(held, record, file, number) if kind == "conversion" else _page(held, record, file, number)
    except (ArchiveLoadFailed, EOFError, OSError, ValueError):  # what broken headers, chunks and compressed bodies lead to
        return Rejected(file, number, "broken_record")


def _content_length(data: bytes) -> int:
    length = _LENGTH.search(data, 0, data.find(_END))
    return int(length[1]) if length else 0


def _url(record: "ArcWarcRecord") -> str:
    return record.rec_headers.get_header("WARC-Target-URI") or ""


def _conversion(held: bytes, record: "ArcWarcRecord", file: str, number: int) -> Outcome:
    try:
        return checked(held.decode(), file, number, url=_url(record))
    except UnicodeDecodeError:
        return Rejected(file, number, "invalid_utf8")


def _page(held: bytes, record: "ArcWarcRecord", file: str, number: int) -> Outcome:
    """The page of an answer 200: HTML with its tags, or plain text."""
    from w3lib.encoding import html_to_unicode

    headers = record.http_headers
    if headers and headers.get_statuscode() != "200":
        return Skipped(file, number, "http_status")
    content_type = (headers.get_header("Content-Type") if headers else record.rec_headers.get_header("Content-Type")) or ""
    media = content_type.partition(";")[0].strip().lower() or (record.rec_headers.get_header("WARC-Identified-Payload-Type") or "")
    if media not in (*_HTML, "text/plain"):
        return Skipped(file, number, "not_html")
    _, text = html_to_unicode(content_type or None, held, auto_detect_fun=_guess)
    return checked(text, file, number, kind="html" if media in _HTML else "text", url=_url(record))


def _guess(data: bytes) -> str:
    """For pages that declare nothing, what browsers do."""
    try:
        data.decode()
        return "utf-8"
    except UnicodeDecodeError:
        return "cp1252"
