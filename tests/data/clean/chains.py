"""Chains of rules, and a corpus of real prose with planted faults for them."""

from datatrove.data import Document as LibraryDocument
from datatrove.pipeline.filters import GopherQualityFilter
from hexareme.data.clean.settings import (
    C4Settings,
    CleanSettings,
    CodeSettings,
    DuplicateSettings,
    FineWebSettings,
    GopherQualitySettings,
    GopherRepetitionSettings,
    LanguageSettings,
    LengthSettings,
    NormalizeSettings,
    PiiSettings,
)
from hexareme.data.clean.words import RegexWords
from hexareme.data.sources.document import Document

from tests.data.clean.real_text import ARTICLE_1, document, prose, web_page

EMAIL = "ann{:02}@mail.example.org"
EVERYTHING = CleanSettings(
    normalize=NormalizeSettings(enabled=True),
    length=LengthSettings(enabled=True, least=100),
    language=LanguageSettings(enabled=True, keep=("en",)),
    gopher_repetition=GopherRepetitionSettings(enabled=True),
    gopher_quality=GopherQualitySettings(enabled=True),
    c4=C4Settings(enabled=True, terminal_punctuation=False),
    fineweb=FineWebSettings(enabled=True),
    pii=PiiSettings(enabled=True),
    duplicates=DuplicateSettings(exact=True, near=True),
    examples=3,
)
# Rules without thresholds that a random text fails, so that it goes through all of them.
ALL_PASS = CleanSettings(
    normalize=NormalizeSettings(enabled=True),
    gopher_repetition=GopherRepetitionSettings(enabled=True, duplicate_lines=0, duplicate_paragraphs=0, duplicate_line_characters=0,
                                               duplicate_paragraph_characters=0, top_ngrams=(9, 9, 9), duplicate_ngrams=(9,) * 6),
    gopher_quality=GopherQualitySettings(enabled=True, least_words=0, most_words=0, least_mean_word_length=0, most_mean_word_length=0,
                                         most_symbols_per_word=0, most_bullet_lines=0, most_ellipsis_lines=0, least_alphabetic_words=0,
                                         least_stop_words=0),
    c4=C4Settings(enabled=True, least_sentences=1, terminal_punctuation=False, least_words_in_line=0, longest_word=0, curly_bracket=False),
    fineweb=FineWebSettings(enabled=True, least_punctuated_lines=0, most_short_lines=1, most_duplicate_characters=1,
                            most_newlines_per_word=10**9),
    code=CodeSettings(enabled=True, longest_line=10**9, most_mean_line_length=10**9, most_lines=10**9, least_alphabetic=0),
    language=LanguageSettings(enabled=True, least_score=0),
    pii=PiiSettings(enabled=True),
)


def kept_by_gopher() -> list[bool]:
    """What datatrove's own filter says of each text of `prose()`, all of which is good."""
    library = GopherQualityFilter(language=RegexWords())
    return [library.filter(LibraryDocument(text=text, id="")) is True for text in prose()]


def faults() -> list[tuple[str, str, str]]:
    """Texts that must go: the rule that does it, the text, its kind."""
    return [
        *(("language", "\n".join([ARTICLE_1[language]] * 3), "text") for language in ("de", "fr", "ru")),
        ("length", "too short", "text"),
        ("gopher_repetition", "\n\n".join([prose()[0]] * 4), "text"),
        ("c4", prose()[2] + " Lorem ipsum dolor sit amet.", "text"),
        ("gopher_quality", prose()[4].replace(". ", ". # # # # # "), "text"),
        ("html", "<html><body><script>1</script></body></html>", "html"),
    ]


def planted() -> tuple[list[Document], dict[int, str]]:
    """All the prose with planted faults, and for each line number the rule that must remove it ("": stays).

    A third of the prose each is inside a web page, has an e-mail address, or has two blanks before it. Good prose that Gopher's filter
    takes for bad is in it, too, as real text has it.
    """
    made: list[Document] = []
    fate: dict[int, str] = {}

    def add(text: str, rule: str, kind: str = "text") -> None:
        made.append(document(text, kind=kind, line=len(made)))
        fate[len(made) - 1] = rule

    for number, (text, good) in enumerate(zip(prose(), kept_by_gopher(), strict=True)):
        mail = f"{text}\n\nPlease write to {EMAIL.format(number)} about it."
        add([web_page(text), mail, f"  {text}"][number % 3], "" if good else "gopher_quality", "text" if number % 3 else "html")
    for rule, text, kind in faults():
        add(text, rule, kind)
    return made, fate
