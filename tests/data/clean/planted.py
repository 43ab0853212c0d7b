"""Corpora of real text with planted duplicates of known similarity; everything here is plain Python sets and regular expressions."""

import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHINGLE = 5  # words
LEAST = 110  # shingles of a document: one changed moves the similarity by less than 0.02


@dataclass
class Planted:
    """Texts, and the family of each: those of one family are duplicates of each other; `similarity` of each to its family's original."""

    texts: list[str]
    families: list[int]
    similarity: list[float]

    def repeats(self) -> list[bool]:
        """Whether an earlier text is of the same family."""
        seen: set[int] = set()
        return [family in seen or bool(seen.add(family)) for family in self.families]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return set(zip(*(words[i:] for i in range(SHINGLE)), strict=False))


def jaccard(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


def unlike_documents(count: int, *, folder: str = "stdlib") -> list[str]:
    """Pieces of this Python's own library (`purelib`: of what is installed), no two of which share more than a third of their shingles."""
    seen: dict[tuple[str, ...], int] = {}
    kept: list[str] = []
    for text in _pieces(Path(sysconfig.get_paths()[folder]), random.Random(7)):
        own = shingles(text)
        most = max(Counter(seen[shingle] for shingle in own if shingle in seen).values(), default=0)
        if len(own) >= LEAST and most < len(own) / 3:
            seen.update(dict.fromkeys(own, len(kept)))
            kept.append(text)
        if len(kept) == count:
            return kept
    raise AssertionError(f"only {len(kept)} documents of {count}")


def _pieces(folder: Path, chance: random.Random) -> Iterator[str]:
    for path in _sources(folder):
        text = path.read_text(errors="ignore")
        while len(text) > 2400:
            size = chance.randint(1200, 2400)
            yield text[:size]
            text = text[size:]


def _sources(folder: Path) -> Iterator[Path]:
    """The Python files below a folder, in order, without listing all of them first."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _sources(path)


def changed(text: str, similarity: float, chance: random.Random, *, tolerance: float = 0.011) -> str:
    """The text with single words replaced until its shingles' Jaccard similarity to the old is the given one."""
    parts = re.split(r"([^\W_]+)", text)  # words at odd places
    inner = list(range(1 + 2 * SHINGLE, len(parts) - 2 * SHINGLE, 2))
    chance.shuffle(inner)
    at_the_end = list(range(len(parts) - 2, len(parts) - 2 * SHINGLE, -2))  # the last word is in one shingle, the one before in two
    for place in inner + at_the_end:
        old, parts[place] = parts[place], f"zz{chance.getrandbits(40):x}"
        now = jaccard(text, "".join(parts))
        if abs(now - similarity) <= tolerance:
            return "".join(parts)
        if now < similarity:
            parts[place] = old
    raise AssertionError(f"no {similarity} of {len(shingles(text))} shingles")


def planted_corpus(originals: list[str], *, similarity: float, seed: int = 1) -> Planted:
    """Of the originals a fifth with one or two exact copies, a fifth with one or two near ones, a tenth with one half as similar; shuffled.

    A copy may come before its original, and two near copies of one original are less like each other.
    """
    chance = random.Random(seed)
    rows: list[tuple[str, int, float]] = []
    for family, text in enumerate(originals):
        rows.append((text, family, 1.0))
        kind = family % 10
        if kind in (0, 1):
            rows += [(text, family, 1.0)] * (1 + kind)
        elif kind in (2, 3):
            rows += [(changed(text, similarity, chance), family, similarity) for _ in range(kind - 1)]
        elif kind == 4:
            rows.append((changed(text, similarity / 2, chance), -family, similarity / 2))
    chance.shuffle(rows)
    return Planted([text for text, _, _ in rows], [family for _, family, _ in rows], [near for _, _, near in rows])
