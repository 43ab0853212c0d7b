"""Documents that share a passage with an evaluation set: n consecutive equal words, GPT-3's rule (Brown et al. 2020, appendix C).

Unlike GPT-3 an n-gram counts however often the corpus has it, and a string of the set with fewer than n words is not sought.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from ..errors import DataError
from .evaluation_sets import evaluation_texts
from .rule import Page, Refused
from .settings import DecontaminationSettings
from .word_hashes import comparable, n_grams, overlapping, word_end

AROUND = 200  # characters cut on both sides of a shared passage, and the least length of what stays between two: GPT-3's numbers
MOST_PIECES = 10  # a document cut into more goes altogether: GPT-3's number
_SHARE = 8  # entries of the table of possible hashes for each n-gram: seven of eight strangers end there
_MOST_BITS = 27


@dataclass(frozen=True)
class Hit:
    """A passage of n words that an evaluation set has too.

    Args:
        set_name: file of the set.
        begin: first character of the passage.
        end: first character behind it.
    """

    set_name: str
    begin: int
    end: int


class NGramIndex:
    """The n-grams of evaluation sets: 10 bytes for each, and 8 for the table before it.

    Args:
        files: one entry for each set: a file, folder or glob.
        n: words.
        keys: see `evaluation_texts`.

    Raises:
        DataError: a file cannot be read, or has no passage of n words.
    """

    def __init__(self, files: Sequence[str], *, n: int, keys: Sequence[str] = ()) -> None:
        self.n = n
        self._names = [PurePath(file).name for file in files]
        sets = [_set_hashes(file, n, keys) for file in files]
        hashes = np.concatenate([np.empty(0, np.uint64), *sets])
        numbers = np.repeat(np.arange(len(sets), dtype=np.uint16), [len(each) for each in sets])
        order = np.argsort(hashes, kind="stable")  # an n-gram of several sets is the first one's
        self._hashes, self._numbers = hashes[order], numbers[order]
        bits = min(_MOST_BITS, max(10, (_SHARE * len(hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._possible = np.zeros(1 << bits, bool)
        self._possible[self._hashes >> self._shift] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, text: str) -> list[Hit]:
        """All shared passages, in order; they may overlap.

        Args:
            text: `comparable` one, to which the hits' places refer.
        """
        hits = []
        for piece in overlapping(text, self.n):
            hashes = n_grams(piece.hashes, self.n)
            maybe = np.flatnonzero(self._possible[hashes >> self._shift])
            if not len(maybe):
                continue
            places = np.minimum(np.searchsorted(self._hashes, hashes[maybe]), len(self._hashes) - 1)
            for first, place in zip(maybe, places, strict=True):
                if self._hashes[place] == hashes[first]:
                    last = int(piece.starts[first + self.n - 1])
                    hits.append(Hit(self._names[self._numbers[place]], int(piece.starts[first]), word_end(text, last)))
        return hits


class Decontamination:
    """The rule: removes a document that shares a passage with an evaluation set, or cuts the passage.

    With `cut` the passage and 200 characters around it go instead, as in GPT-3; what then stays shorter than 200 characters goes, too, and
    so does a document that would be cut into more than ten.

    Args:
        settings: the evaluation sets, and what is sought of them.

    Raises:
        DataError: a set cannot be read, or has no passage of so many words.
    """

    name = "decontamination"

    def __init__(self, settings: DecontaminationSettings) -> None:
        self._index = NGramIndex(settings.files, n=settings.ngram, keys=settings.text_keys)
        self._cut = settings.cut

    def __call__(self, page: Page) -> str | Refused:
        text = comparable(page.text)
        hits = self._index.find(text)
        if not hits:
            return page.text
        first = Refused(f"{hits[0].set_name}: {' '.join(text[hits[0].begin:hits[0].end].split())}")
        if not self._cut:
            return first
        pieces = _without(page.text, text, hits)
        return "\n\n".join(pieces) if 0 < len(pieces) <= MOST_PIECES else first


def _set_hashes(file: str, n: int, keys: Sequence[str]) -> np.ndarray:
    """The distinct n-grams of one set, uint64, sorted."""
    parts = []
    total = np.empty(0, np.uint64)
    waiting = 0
    for text in evaluation_texts(file, keys):
        for piece in overlapping(comparable(text), n):
            parts.append(n_grams(piece.hashes, n))
            waiting += len(parts[-1])
        if waiting > max(1 << 20, len(total)):
            total, parts, waiting = _distinct(np.concatenate([total, *parts])), [], 0
    total = _distinct(np.concatenate([total, *parts]))
    if not len(total):
        raise DataError(f"the evaluation set {file} has no passage of {n} words",
                        do="name other files or keys in clean.decontamination, or a smaller ngram", file=file)
    return total


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted, each once; numpy's own `unique` hashes integers since 2.3, which took 20 times as long here."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _without(text: str, compared: str, hits: Sequence[Hit]) -> list[str]:
    """What is left of a text, of at least AROUND characters each.

    Args:
        text: the document's.
        compared: `comparable(text)`.
        hits: places in `compared`.
    """
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    origin = None  # of each compared character; a few letters (Turkish dotted I) are two in lower case
    if len(compared) != len(composed):
        origin = np.repeat(np.arange(len(composed)), [len(character.lower()) for character in composed])
    pieces = []
    begin = 0
    for hit in hits:
        first, last = (hit.begin, hit.end - 1) if origin is None else (int(origin[hit.begin]), int(origin[hit.end - 1]))
        pieces.append(composed[begin:max(begin, first - AROUND)])
        begin = max(begin, last + 1 + AROUND)
    pieces.append(composed[begin:])
    return [piece for piece in pieces if len(piece) >= AROUND]
