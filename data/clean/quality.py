"""datatrove's quality rules, with our thresholds, words and names: Gopher, C4, FineWeb."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter
from datatrove.utils.text import PUNCTUATION_SET

from .rule import Page, Refused
from .settings import C4Settings, FineWebSettings, GopherQualitySettings, GopherRepetitionSettings
from .words import forget_long

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.utils.word_tokenizers import WordTokenizer


class LibraryRule:
    """Filters of datatrove, called one document at a time.

    Args:
        name: of the rule.
        filters: one after the other; they may change the text.
        prefix: of the library's reasons, which would only repeat the name.
    """

    def __init__(self, name: str, filters: Sequence["BaseFilter"], prefix: str = "") -> None:
        self.name = name
        self._filters = filters
        self._prefix = prefix

    def __call__(self, page: Page) -> str | Refused:
        if not any(sign not in PUNCTUATION_SET and not sign.isspace() for sign in page.text):
            return Refused("no_words")  # by their number the library divides
        document = Document(text=page.text, id="")
        for one in self._filters:
            kept: Any = one.filter(document)
            if kept is not True:
                reason = kept[1] if isinstance(kept, tuple) else "refused"
                forget_long(page.text)
                return Refused(reason.removeprefix(self._prefix).replace(" ", "_"))
        forget_long(page.text)
        return page.text if document.text == page.text else document.text


def gopher_quality(settings: GopherQualitySettings, words: "WordTokenizer") -> LibraryRule:
    """Words, symbols, bullets, stop words."""
    return LibraryRule("gopher_quality", [GopherQualityFilter(
        min_doc_words=settings.least_words,
        max_doc_words=settings.most_words,
        min_avg_word_length=settings.least_mean_word_length,  # type: ignore[arg-type]  # compared as a number
        max_avg_word_length=settings.most_mean_word_length,  # type: ignore[arg-type]
        max_symbol_word_ratio=settings.most_symbols_per_word,
        max_bullet_lines_ratio=settings.most_bullet_lines,
        max_ellipsis_lines_ratio=settings.most_ellipsis_lines,
        max_non_alpha_words_ratio=settings.least_alphabetic_words,  # so the library calls the least part of words with a letter
        min_stop_words=settings.least_stop_words,
        stop_words=list(settings.stop_words),
        language=words,
    )], "gopher_")


def gopher_repetition(settings: GopherRepetitionSettings, words: "WordTokenizer") -> LibraryRule:
    """Repeated lines, paragraphs and n-grams."""
    return LibraryRule("gopher_repetition", [GopherRepetitionFilter(
        dup_line_frac=settings.duplicate_lines,
        dup_para_frac=settings.duplicate_paragraphs,
        dup_line_char_frac=settings.duplicate_line_characters,
        dup_para_char_frac=settings.duplicate_paragraph_characters,
        top_n_grams=tuple(enumerate(settings.top_ngrams, start=2)),
        dup_n_grams=tuple(enumerate(settings.duplicate_ngrams, start=5)),
        language=words,
    )])


def c4(settings: C4Settings, words: "WordTokenizer") -> LibraryRule:
    """Bad lines go, and documents with too few sentences left."""
    lines = C4QualityFilter(
        remove_citations=settings.citations,
        filter_no_terminal_punct=settings.terminal_punctuation,
        min_num_sentences=settings.least_sentences or -1,
        min_words_per_line=settings.least_words_in_line or -1,
        max_word_length=settings.longest_word or -1,
        filter_lorem_ipsum=settings.lorem_ipsum,
        filter_javascript=settings.javascript,
        filter_curly_bracket=settings.curly_bracket,
        filter_policy=settings.policy,
        language=words,
    )
    return LibraryRule("c4", [lines, C4ParagraphFilter()] if settings.paragraphs else [lines])


def fineweb(settings: FineWebSettings, words: "WordTokenizer") -> LibraryRule:
    """Lists, short lines and repeated lines."""
    return LibraryRule("fineweb", [FineWebQualityFilter(
        line_punct_thr=settings.least_punctuated_lines,
        short_line_thr=settings.most_short_lines,
        short_line_length=settings.short_line,
        char_duplicates_ratio=settings.most_duplicate_characters,
        new_line_ratio=settings.most_newlines_per_word,
        language=words,
    )])
