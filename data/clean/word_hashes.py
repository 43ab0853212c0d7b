"""The words of a text as an array of 64-bit hashes, and the hashes of its n-grams: what duplicates and decontamination compare.

A word is a run of letters, digits and marks in lower case; punctuation and spaces only separate. Scripts that write no spaces between
words (Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan) have a word for each character. Numbers stay as they are: two tables that
differ only in their figures are two documents.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

PIECE = 1 << 18  # characters hashed at a time: bounds memory and the table of powers (2 MiB), the result does not depend on it
_SEPARATOR, _IN_WORD, _WORD_ALONE = 0, 1, 2
_NO_SPACES = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
              (0xF900, 0xFAFF), (0xFF66, 0xFF9F))
_BASIC = 1 << 16  # what lies above is a character for itself (rare ideographs, emoji)
_BASE = 0xD1342543DE82EF95  # odd, so that it has an inverse modulo 2^64 (a multiplier of Steele and Vigna, arXiv:2001.05304)
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Words:
    """Consecutive words of a text.

    Args:
        hashes: uint64 (words,).
        starts: int64 (words,), the first character of each, in the text that was hashed (`comparable` of the given one).
    """

    hashes: np.ndarray
    starts: np.ndarray


def comparable(text: str) -> str:
    """The text as it is compared: composed (NFC) and in lower case."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()


def words(text: str) -> Iterator[Words]:
    """The words in order, in pieces of bounded size.

    Args:
        text: `comparable` one. A word is cut only where a run of 2^18 characters has no space.
    """
    begin = 0
    while begin < len(text):
        end = _piece_end(text, begin)
        yield _words(text[begin:end], begin)
        begin = end


def overlapping(text: str, n: int) -> Iterator[Words]:
    """The words in pieces that repeat the last n - 1 words of the piece before: each n-gram of the text is whole in one piece.

    Args:
        text: `comparable` one.
        n: words in each n-gram.
    """
    before = Words(np.empty(0, np.uint64), np.empty(0, np.int64))
    for piece in words(text):
        joined = Words(np.concatenate([before.hashes, piece.hashes]), np.concatenate([before.starts, piece.starts]))
        yield joined
        last = max(0, len(joined.hashes) - n + 1)
        before = Words(joined.hashes[last:], joined.starts[last:])


def n_grams(hashes: np.ndarray, n: int) -> np.ndarray:
    """A hash for each n consecutive words, uint64 (words - n + 1,); empty where there are fewer.

    Args:
        hashes: of the words, uint64.
        n: words in each.
    """
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    factor = 1
    for offset in range(n):
        factor = factor * _BASE & _MASK
        total += hashes[offset:offset + count] * np.uint64(factor)
    return mixed(total)


def word_end(text: str, start: int) -> int:
    """The first character behind the word that starts there.

    Args:
        text: `comparable` one.
        start: of `Words.starts`.
    """
    kinds = _kinds_of(_characters(text[start:start + PIECE]))
    return start + (1 if kinds[0] == _WORD_ALONE else int(np.argmin(np.append(kinds == _IN_WORD, False))))


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014) of uint64 values of any shape."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _piece_end(text: str, begin: int) -> int:
    end = begin + PIECE
    if end >= len(text):
        return len(text)
    cut = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end))
    return cut + 1 if cut > begin else end


def _words(piece: str, begin: int) -> Words:
    characters = _characters(piece)
    kind = _kinds_of(characters)
    first = kind != _SEPARATOR
    first[1:] &= (kind[1:] == _WORD_ALONE) | (kind[:-1] != _IN_WORD)
    starts = np.flatnonzero(first)
    if not len(starts):
        return Words(np.empty(0, np.uint64), starts)
    powers, inverses = _powers()
    values = characters.astype(np.uint64)
    values *= powers[:len(values)]
    values[kind == _SEPARATOR] = 0
    # sum of c_i B^i over the word, divided by B^start: the polynomial of the word wherever it stands.
    return Words(mixed(np.add.reduceat(values, starts) * inverses[starts]), starts + begin)


def _characters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _kinds_of(characters: np.ndarray) -> np.ndarray:
    return _kinds()[np.minimum(characters, _BASIC)]


@cache
def _kinds() -> np.ndarray:
    """uint8 by character; the last entry stands for all above the basic plane."""
    kinds = np.full(_BASIC + 1, _WORD_ALONE, np.uint8)
    kinds[:_BASIC] = [unicodedata.category(chr(code))[0] in "LNM" for code in range(_BASIC)]
    for low, high in _NO_SPACES:
        kinds[low:high + 1] *= _WORD_ALONE
    return kinds


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """_BASE^i and its inverse modulo 2^64, uint64 (PIECE,) each."""
    def powers_of(base: int) -> np.ndarray:
        factors = np.full(PIECE, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return powers_of(_BASE), powers_of(pow(_BASE, -1, 2**64))
