"""Wikipedia dumps (`pages-articles`, MediaWiki's XML export): the articles as plain text, each with its title as the first line.

Format: https://www.mediawiki.org/wiki/Help:Export. A dump of many bz2 streams ("multistream") can be gone on with at any of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from .document import Outcome, Rejected, Skipped, checked
from .wikitext import plain_text

PAGE_END = b"</page>"
HEADER_END = b"</siteinfo>"

_FILE, _CATEGORY, _MEDIA = "6", "14", "-2"
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^>]*>([^<]+)</namespace>')
_BASE = re.compile(r"<base>([^<]+)/[^</]*</base>")


@dataclass(frozen=True)
class Site:
    """What the head of a dump says: the address of its articles, and the namespaces whose links are no text, in small letters."""

    base: str = ""
    hidden: tuple[str, ...] = ("category", "file", "image", "media")

    @classmethod
    def read(cls, head: bytes) -> "Site":
        """From the bytes up to `HEADER_END`."""
        text = head.decode(errors="replace")
        local = {name.lower() for key, name in _NAMESPACE.findall(text) if key in (_FILE, _CATEGORY, _MEDIA)}
        base = _BASE.search(text)
        return cls(base[1] if base else "", tuple(sorted(local | set(cls.hidden))))


def count_pages(data: bytes) -> int:
    """Pages in a piece, the last may be incomplete."""
    return sum(b"<page>" in part for part in data.split(PAGE_END))


@dataclass(frozen=True)
class Pages:
    """Whole pages of a dump; `line` of their documents is the number of the page."""

    file: str
    first_line: int
    data: bytes
    site: Site

    def documents(self) -> Iterator[Outcome]:
        """One outcome for each page."""
        parts = self.data.split(PAGE_END)
        number = self.first_line
        for place, part in enumerate(parts, 1):
            begin = part.find(b"<page>")
            if begin >= 0:
                whole = place < len(parts)
                yield self._document(part[begin:] + PAGE_END, number) if whole else Rejected(self.file, number, "truncated_page")
                number += 1

    def _document(self, data: bytes, number: int) -> Outcome:
        try:
            page = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError):
            return Rejected(self.file, number, "broken_xml")
        if page.findtext("ns", "0").strip() != "0":
            return Skipped(self.file, number, "not_article")
        if page.find("redirect") is not None:
            return Skipped(self.file, number, "redirect")
        revisions = page.findall("revision")
        title = page.findtext("title", "")
        text = plain_text(revisions[-1].findtext("text") or "", self.site.hidden) if revisions else ""
        url = f"{self.site.base}/{title.replace(' ', '_')}" if self.site.base else ""
        return checked(f"{title}\n\n{text}" if text else "", self.file, number, url=url)
