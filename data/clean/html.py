"""The text of an HTML page without its navigation, advertisements and footers: trafilatura, called through datatrove."""

import logging
from typing import Any

from .rule import Page, Refused
from .settings import HtmlSettings


class Html:
    """The rule for pages of kind html; others pass as they are."""

    name = "html"

    def __init__(self, settings: HtmlSettings) -> None:
        self._settings = settings
        self._extractor = _Extractor(settings)

    def __call__(self, page: Page) -> str | Refused:
        if page.kind != "html":
            return page.text
        # trafilatura turns away larger pages itself, in silence
        if len(page.text) > self._settings.largest_bytes or len(page.text.encode(errors="surrogatepass")) > self._settings.largest_bytes:
            return Refused("page_too_large")
        text = self._extractor(page.text)
        return text or Refused("no_text")


def extract(html: str) -> str:
    """The text of a page with the default settings; empty where there is none."""
    return _Extractor(HtmlSettings())(html)


class _Extractor:
    """datatrove's extractor, made at the first page: corpora without HTML need not load it."""

    def __init__(self, settings: HtmlSettings) -> None:
        self._settings = settings
        self._library: Any = None

    def __call__(self, html: str) -> str:
        from lxml.etree import LxmlError

        if self._library is None:
            from datatrove.pipeline.extractors import Trafilatura

            logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a line for each page without text; the report counts them

            # Not `deduplicate`, the library's default: it drops what it has seen in *other* pages of the same process, so the result
            # would depend on which worker saw what before.
            self._library = Trafilatura(favour_precision=self._settings.precision, deduplicate=False,
                                        include_tables=self._settings.tables)
        try:
            # lone surrogates and NUL cannot be in XML
            return self._library.extract(html.encode(errors="replace").decode().replace("\0", "")) or ""
        except (LxmlError, ValueError):  # a page that the parser cannot make sense of has no text for us
            return ""
