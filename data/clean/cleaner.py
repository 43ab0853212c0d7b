"""All rules of a corpus on one document, in their order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from .html import Html
from .rule import Page, Refused, Rule
from .rules import rules_of
from .settings import CleanSettings
from .time_limit import TimeLimit, time_limit

_MIB = 1 << 20
TIME_LIMIT = "time_limit"


class Source(Protocol):
    """What is asked of a document; `data.sources.document.Document` has it."""

    text: str
    kind: str
    url: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Change:
    """What one rule did to a text: its UTF-8 bytes before and after, and both texts."""

    rule: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that stays, as the rules left it; never empty."""

    text: str
    changes: list[Change] = field(default_factory=list)

    @property
    def changed(self) -> dict[str, int]:
        """Bytes of UTF-8 that each rule took away; negative where it added some."""
        return {change.rule: utf8_bytes(change.before) - utf8_bytes(change.after) for change in self.changes}


@dataclass(frozen=True, slots=True)
class Removed:
    """A document that goes. `text`: as the removing rule found it; `detail`: which of the rule's conditions failed."""

    rule: str
    detail: str
    text: str
    changes: list[Change] = field(default_factory=list)


class Cleaner:
    """The rules, made once in each worker.

    Args:
        settings: which rules.

    Raises:
        DataError: a list or a model that a rule needs is missing or cannot be read, or a library is not installed.
    """

    def __init__(self, settings: CleanSettings) -> None:
        self._rules: list[Rule] = [Html(settings.html), *rules_of(settings)]
        self._seconds = settings.seconds

    @property
    def names(self) -> list[str]:
        """Of the rules, in the order in which they are applied; the rows of the report."""
        return [*(rule.name for rule in self._rules), TIME_LIMIT]

    def __call__(self, document: Source) -> Kept | Removed:
        """What becomes of a document; never raises, whatever its text."""
        changes: list[Change] = []
        page = Page(document.text, document.kind, document.url, document.file)
        if len(self._rules) == 1 and page.kind != "html":
            return Kept(page.text)
        try:
            with time_limit(self._seconds * (1 + len(document.text) // _MIB)):
                for rule, refused in self._steps(page, changes):
                    return Removed(rule, refused.detail, page.text, changes)
        except TimeLimit:
            return Removed(TIME_LIMIT, f"{self._seconds:g} s for each MiB", page.text, changes)
        return Kept(page.text, changes)

    def _steps(self, page: Page, changes: list[Change]) -> Iterator[tuple[str, Refused]]:
        """Applies rule after rule to the page; gives the refusal, if there is one."""
        for rule in self._rules:
            result = rule(page)
            if isinstance(result, Refused):
                yield rule.name, result
                return
            if result is not page.text:
                changes.append(Change(rule.name, page.text, result))
                page.text = result
                if not result:
                    yield rule.name, Refused("nothing_left")
                    return


def utf8_bytes(text: str) -> int:
    """Of a text; a lone surrogate counts as the three bytes that it would take."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
