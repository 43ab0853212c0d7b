"""What comes out of a source: a document, or why there is none."""

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(slots=True)
class Document:
    """A text as its source holds it; never empty, always encodable as UTF-8.

    Args:
        text: the text; for kind "html" still with its tags.
        file: path or URL of the file.
        line: counts from 1; in Parquet, Arrow and the like the row, in WARC and Wikipedia files the record.
        kind: "text", "html" or "code".
        url: where the text was found in the web, if the source knows.
        record: the JSON object around the text, from JSON lines.
    """

    text: str
    file: str
    line: int
    kind: str = "text"
    url: str = ""
    record: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is broken, and counts against the limit of bad ones; `line` as in `Document`."""

    file: str
    line: int
    cause: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is whole but holds no document: an empty text, a redirect, a request of a crawler."""

    file: str
    line: int
    cause: str


Outcome: TypeAlias = Document | Rejected | Skipped


def checked(text: str, file: str, line: int, *, kind: str = "text", url: str = "", record: dict[str, Any] | None = None) -> Outcome:
    """The document of a text, if it is one."""
    if not text:
        return Skipped(file, line, "empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # "\ud800" is legal JSON, but no text
            return Rejected(file, line, "lone_surrogate")
    return Document(text, file, line, kind, url, record)
