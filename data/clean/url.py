"""Documents by where they are from: datatrove's filter of addresses, on local lists."""

from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from tldextract import TLDExtract

from .needs import lines_of
from .rule import Page, Refused
from .settings import UrlSettings


class Url:
    """Domains, addresses and words in them; documents without an address pass.

    Raises:
        DataError: a list is missing.
    """

    name = "url"

    def __init__(self, settings: UrlSettings) -> None:
        def entries(path: str, key: str) -> list[str] | None:
            return lines_of(path, f"clean.url.{key}") if path else None

        self._filter = URLFilter(
            soft_word_threshold=settings.soft_words_most + 1,
            extra_domains=entries(settings.domains_file, "domains_file"),
            extra_urls=entries(settings.urls_file, "urls_file"),
            banned_words=entries(settings.words_file, "words_file"),
            banned_subwords=entries(settings.subwords_file, "subwords_file"),
            soft_banned_words=entries(settings.soft_words_file, "soft_words_file"),
            use_integrated_lists=settings.integrated,
        )
        # The library's own would fetch the list of public suffixes at the first address; the package carries one.
        self._filter.tldextractor = TLDExtract(suffix_list_urls=(), cache_dir=None)

    def __call__(self, page: Page) -> str | Refused:
        if not page.url:
            return page.text
        kept = self._filter.filter(Document(text="", id="", metadata={"url": page.url}))
        return Refused(kept[1]) if isinstance(kept, tuple) else page.text
