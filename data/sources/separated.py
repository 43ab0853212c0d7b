"""Rows of separated values: CSV with quotes (RFC 4180), TSV without; the first row names the columns."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .cut import MOST_RECORD
from .document import Outcome, Rejected, checked


def text_column(head: bytes, delimiter: str, path: str, text_key: str) -> int:
    """Number of the column of the text.

    Args:
        head: bytes from the beginning of the file, at least the first row; none of an empty file.
        delimiter: between fields.
        path: of the file.
        text_key: name of the column.

    Raises:
        DataError: it is not there, or the first row is none.
    """
    try:
        names: list[str] = next(_reader(_lines(head.removeprefix(b"\xef\xbb\xbf")), delimiter), [])
    except csv.Error as error:
        message = f"{path} does not begin with a row of column names: {error}"
        raise DataError(message, do="let its rows end with line feeds, and name the columns in the first one", file=path) from error
    if names and text_key not in names:
        message = f"{path} has no column {text_key}; its columns are {', '.join(names)[:200]}"
        raise DataError(message, do="set text_key= to the column of the text", file=path)
    return names.index(text_key) if names else 0


@dataclass(frozen=True)
class Rows:
    """Whole rows of a file; `column`: the number of the one that is text; at line 1 lie the names."""

    file: str
    first_line: int
    data: bytes
    delimiter: str
    column: int

    def documents(self) -> Iterator[Outcome]:
        """One outcome for each row; `line` is where it begins."""
        reader = _reader(_lines(self.data), self.delimiter)
        while True:
            line = self.first_line + reader.line_num
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield Rejected(self.file, line, "broken_csv")
                continue
            if line > 1:
                yield self._document(row, line)

    def _document(self, row: list[str], line: int) -> Outcome:
        if not row:
            return checked("", self.file, line)
        if self.column >= len(row):
            return Rejected(self.file, line, "missing_key")
        outcome = checked(row[self.column], self.file, line)
        return Rejected(self.file, line, "invalid_utf8") if isinstance(outcome, Rejected) else outcome


def _lines(data: bytes) -> Iterator[str]:
    """Only line feeds end lines; what is not UTF-8 is kept as surrogates, to be found in its row."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line feed
    return (line.decode(errors="surrogateescape") + "\n" for line in lines)


def _reader(lines: Iterator[str], delimiter: str) -> Any:
    csv.field_size_limit(MOST_RECORD)  # the library's own limit, 128 KiB for the whole process, is less than a long document
    if delimiter == "\t":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=delimiter)
