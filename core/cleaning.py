"""From the keys of `clean` to what the data layer takes, and what the schema alone cannot refuse. Pure."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..conf.clean_schema import CleanConfig
from ..conf.errors import Problem
from ..data.clean.settings import ENGLISH_STOP_WORDS, CleanSettings

T = TypeVar("T")

# Written without blanks between words (ISO 639-1, and the library's Cantonese): a split at blanks takes a sentence for one word.
_WITHOUT_BLANKS = frozenset(["zh", "ja", "th", "lo", "km", "my", "bo", "dz", "yue"])
_LISTS_OF_URLS = ("domains_file", "urls_file", "words_file", "subwords_file", "soft_words_file")


def settings_of(config: CleanConfig) -> CleanSettings:
    """The settings of a composed config: the same names, plain values."""
    return _plain(config, CleanSettings)


def _plain(section: Any, target: type[T]) -> T:
    hints = get_type_hints(target)
    values = {}
    for entry in fields(target):  # type: ignore[arg-type]
        value = getattr(section, entry.name)
        if is_dataclass(hints[entry.name]):
            value = _plain(value, hints[entry.name])  # type: ignore[arg-type]
        values[entry.name] = tuple(value) if isinstance(value, list) else value.value if isinstance(value, Enum) else value
    return target(**values)


def problems(config: CleanConfig) -> Iterator[Problem]:
    """What contradicts itself, or is asked for without what it needs."""
    yield from _missing(config)
    yield from _languages(config)
    length, gopher, repetition = config.length, config.gopher_quality, config.gopher_repetition
    if length.enabled and length.most and length.least > length.most:
        yield Problem("clean.length.least", length.least, f"is above clean.length.most={length.most}", "leave room between them")
    if gopher.enabled and gopher.most_words and gopher.least_words > gopher.most_words:
        yield Problem("clean.gopher_quality.least_words", gopher.least_words,
                      f"is above clean.gopher_quality.most_words={gopher.most_words}", "leave room between them")
    for name, counts in {"top_ngrams": repetition.top_ngrams, "duplicate_ngrams": repetition.duplicate_ngrams}.items():
        if repetition.enabled and not all(0 < count <= 1 for count in counts):
            yield Problem(f"clean.gopher_repetition.{name}", counts, "must be parts of the characters, above 0 and at most 1",
                          "write it as in [0.2,0.18,0.16]")


def _missing(config: CleanConfig) -> Iterator[Problem]:
    """Rules without their lists, and files that are not there."""
    url = config.url
    if url.enabled and not url.integrated and not any(getattr(url, name) for name in _LISTS_OF_URLS):
        yield Problem("clean.url.enabled", True, "without any list removes nothing",
                      "set clean.url.domains_file or another list, or clean.url.integrated=true")
    if config.bad_words.enabled and not config.bad_words.file:
        yield Problem("clean.bad_words.file", "", "is empty, and no list comes with us: C4's is a download",
                      "name a file with one word a line, or set clean.bad_words.enabled=false")
    named = {"clean.language.model": config.language.enabled and config.language.model,
             "clean.bad_words.file": config.bad_words.enabled and config.bad_words.file,
             **{f"clean.url.{name}": url.enabled and getattr(url, name) for name in _LISTS_OF_URLS}}
    for key, path in named.items():
        if path and not Path(path).is_file():
            yield Problem(key, path, "is no file", "name an existing file; nothing is downloaded")


def _languages(config: CleanConfig) -> Iterator[Problem]:
    """Word rules on languages that they were not made for would remove every document."""
    keep = config.language.keep if config.language.enabled else []
    gopher = config.gopher_quality
    counting = gopher.enabled or config.gopher_repetition.enabled or config.fineweb.enabled
    unsplit = sorted(set(keep) & _WITHOUT_BLANKS)
    if unsplit and counting and config.words == "regex":
        yield Problem("clean.words", "regex", f"splits at blanks, which {', '.join(unsplit)} (clean.language.keep) do without",
                      f"set clean.words=library, clean.words_language={unsplit[0]}, or switch off the rules that count words")
    english = tuple(gopher.stop_words) == ENGLISH_STOP_WORDS and gopher.least_stop_words
    if keep and "en" not in keep and gopher.enabled and english:
        yield Problem("clean.gopher_quality.stop_words", gopher.stop_words, f"are English, and clean.language.keep is {', '.join(keep)}",
                      "set those of your language, or clean.gopher_quality.least_stop_words=0")
