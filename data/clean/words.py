"""Who splits text into words and sentences for datatrove's rules.

datatrove takes spaCy for English and most languages: forty times slower than `RegexWords` (0.6 and 24 MB a CPU second), and 40 packages
more. On 250 pages of technical English the rules decided alike for 250 (FineWeb, C4), 246 (Gopher repetition) and 236 (Gopher quality,
whose part of alphabetic words feels how code is split). It splits at blanks, so it is not for Chinese, Japanese, Thai and the like.
"""

import re

from datatrove.utils.text import TERMINAL_PUNCTUATION, split_into_parts
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

from ..errors import DataError
from .settings import CleanSettings

# A word with its inner apostrophes, hyphens and points (don't, well-known, 3.14), or a run of signs.
_WORD = re.compile(r"\w+(?:['’.\-]\w+)*|[^\w\s]+")
_ELSEWHERE = re.escape("".join(sorted(TERMINAL_PUNCTUATION - set(".!?"))))
# The end of a sentence: .!? with what closes behind them, before a blank; another script's mark anywhere; a line's end. Possessive, and
# started only where a run starts, so that a million points take linear time.
_SENTENCE_END = re.compile(rf"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s|\Z)|[{_ELSEWHERE}]++|\n++")


class RegexWords(WordTokenizer):
    """Words and sentences by two regular expressions."""

    def word_tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[start:end].strip() for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        spans = zip([0, *ends], [*ends, len(text)], strict=True)
        return [(start, end) for start, end in spans if text[start:end].strip()]


def splitter(settings: CleanSettings) -> WordTokenizer:
    """What the settings ask for.

    Raises:
        DataError: datatrove has no splitter for the language, or its library is not installed.
    """
    if settings.words == "regex":
        return RegexWords()
    try:
        found = load_word_tokenizer(settings.words_language)
        found.word_tokenize("One sentence.")  # libraries and models are loaded at the first use
    except (ImportError, ValueError, OSError, LookupError) as error:
        message = f"clean.words=library cannot split clean.words_language={settings.words_language}: {' '.join(str(error).split())}"
        raise DataError(message, do="install what it names, or set clean.words=regex") from error
    return found


def forget_long(text: str) -> None:
    """datatrove keeps the words of the last five texts for the next rule; those of a giant would stay in memory for long."""
    if len(text) > 1 << 20:
        split_into_parts.cache_clear()
