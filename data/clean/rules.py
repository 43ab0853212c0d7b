"""Which rules the settings ask for, in the order in which they are applied: what is cheap or removes much comes first."""

from collections.abc import Iterator

from .length import Length
from .needs import need_library
from .rule import Rule
from .settings import CleanSettings


def rules_of(settings: CleanSettings) -> Iterator[Rule]:
    """The rules that are switched on. Each is imported only then: datatrove takes a second, which a corpus without rules does not pay.

    Raises:
        DataError: what one of them needs is missing.
    """
    if settings.normalize.enabled:
        from .normalize import Normalize

        yield Normalize(settings.normalize)
    if settings.length.enabled:
        yield Length(settings.length)
    if settings.url.enabled:
        need_library("datatrove", "clean.url")
        from .url import Url

        yield Url(settings.url)
    if settings.language.enabled:
        from .language import Language

        yield Language(settings.language)
    if settings.bad_words.enabled:
        from .bad_words import BadWords

        yield BadWords(settings.bad_words)
    if settings.code.enabled:
        from .code import Code

        yield Code(settings.code)
    yield from _quality(settings)
    if settings.pii.enabled:
        need_library("datatrove", "clean.pii")
        from .pii import Pii

        yield Pii(settings.pii)
    if settings.decontamination.files:
        from .decontamination import Decontamination

        yield Decontamination(settings.decontamination)


def _quality(settings: CleanSettings) -> Iterator[Rule]:
    """The rules that count words; FineWeb's order: repetition, quality, C4's lines, FineWeb's own."""
    sections = (settings.gopher_repetition, settings.gopher_quality, settings.c4, settings.fineweb)
    if not any(section.enabled for section in sections):
        return
    need_library("datatrove", "clean's quality rules")
    from . import quality
    from .words import splitter

    words = splitter(settings)
    if settings.gopher_repetition.enabled:
        yield quality.gopher_repetition(settings.gopher_repetition, words)
    if settings.gopher_quality.enabled:
        yield quality.gopher_quality(settings.gopher_quality, words)
    if settings.c4.enabled:
        yield quality.c4(settings.c4, words)
    if settings.fineweb.enabled:
        yield quality.fineweb(settings.fineweb, words)
