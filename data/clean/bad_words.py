"""Documents with a word of a list, as C4 removes them (Raffel et al. 2020, section 2.2)."""

from .needs import lines_of, need_library
from .rule import Page, Refused
from .settings import BadWordsSettings


class BadWords:
    """Words and phrases in lower case, looked for in the text in lower case.

    The same decisions as datatrove's C4BadWordsFilter, whose list is a download and whose one regular expression of all words is slow:
    here all are found in one pass (Aho and Corasick 1975).

    Raises:
        DataError: the list is missing.
    """

    name = "bad_words"

    def __init__(self, settings: BadWordsSettings) -> None:
        need_library("ahocorasick", "clean.bad_words")
        import ahocorasick

        self._whole = settings.whole_words
        self._words = ahocorasick.Automaton()
        for word in lines_of(settings.file, "clean.bad_words.file"):
            self._words.add_word(word.lower(), len(word.lower()))
        self._words.make_automaton()

    def __call__(self, page: Page) -> str | Refused:
        text = page.text.lower()
        for end, length in self._words.iter(text):
            start = end + 1 - length
            inside = _is_word(text[start - 1 : start]) or _is_word(text[end + 1 : end + 2])  # an empty slice at the text's edges is none
            if not (self._whole and inside):
                return Refused("listed_word")
        return page.text


def _is_word(sign: str) -> bool:
    """What \\w matches."""
    return sign.isalnum() or sign == "_"
