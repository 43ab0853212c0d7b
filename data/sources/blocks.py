"""Raw records as they travel to a worker, and what the worker finds in them: plain texts, rows, JSON lines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .document import Outcome, Rejected, checked


@dataclass(frozen=True)
class JsonLines:
    """Whole lines of a file, each a JSON object with the text under `text_key`."""

    file: str
    first_line: int
    data: bytes
    text_key: str

    def documents(self) -> Iterator[Outcome]:
        """One outcome for each line; a blank one is an empty text."""
        lines = self.data.split(b"\n")
        if not lines[-1]:
            lines.pop()  # what follows the last line feed
        for number, line in enumerate(lines, self.first_line):
            yield self._document(line, number)

    def _document(self, data: bytes, number: int) -> Outcome:
        try:
            line = data.decode()
        except UnicodeDecodeError:
            return Rejected(self.file, number, "invalid_utf8")
        if not line.strip():
            return checked("", self.file, number)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # a million open brackets are as broken as one
            return Rejected(self.file, number, "broken_json")
        if not isinstance(record, dict):
            return Rejected(self.file, number, "not_an_object")
        return from_record(record, self.text_key, self.file, number)


def from_record(record: dict[str, Any], text_key: str, file: str, line: int) -> Outcome:
    """The document of a JSON object."""
    if text_key not in record:
        return Rejected(file, line, "missing_key")
    text, url = record[text_key], record.get("url")
    if not isinstance(text, str):
        return Rejected(file, line, "wrong_type")
    return checked(text, file, line, url=url if isinstance(url, str) else "", record=record)


@dataclass(frozen=True)
class Texts:
    """Documents as they are, in UTF-8: the whole of a text file, or rows of a table; None is a null."""

    file: str
    first_line: int
    data: list[bytes | None]
    kind: str = "text"

    def documents(self) -> Iterator[Outcome]:
        """One outcome for each text."""
        for number, data in enumerate(self.data, self.first_line):
            if data is None:
                yield Rejected(self.file, number, "missing_key")
                continue
            try:
                yield checked(data.decode(), self.file, number, kind=self.kind)
            except UnicodeDecodeError:
                yield Rejected(self.file, number, "invalid_utf8")


@dataclass(frozen=True)
class TooLong:
    """A record of more than `cut.MOST_RECORD` bytes, which was not kept."""

    file: str
    first_line: int

    def documents(self) -> Iterator[Outcome]:
        """The reject."""
        yield Rejected(self.file, self.first_line, "too_long")
