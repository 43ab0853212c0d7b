"""What a cleaning rule is, and what it sees. Pure."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Page:
    """A document on its way through the rules.

    Args:
        text: as the rules before left it.
        kind: text, html or code, as the source said.
        url: where it is from; empty where unknown.
        file: the input file; its ending tells kinds of code apart.
    """

    text: str
    kind: str = "text"
    url: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A rule's word that the document goes; `detail`: which of its conditions failed."""

    detail: str


class Rule(Protocol):
    """A rule: `name` is its row in the report.

    Called with a page, it returns the text to go on with (the same object where nothing changed) or Refused. It depends on nothing but
    the page: not on documents seen before, so that any number of workers gives the same corpus.
    """

    name: str

    def __call__(self, page: Page) -> str | Refused: ...
