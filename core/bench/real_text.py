"""Text in any amount that no line of is repeated, and whose words follow each other as in real text: the source and docs of this Python."""

import json
import re
import sysconfig
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

_WORD = re.compile(r"\s*\S+|\s+$")  # with the space before it
_TOGETHER, _CHAIN = 1024, 2048  # chains that are drawn at once, and their words
_MEAN_LOG, _SPREAD_LOG = 6.0, 0.8  # words of a document; those of the web are about log-normal


class RealText:
    """A chain of words: each follows the one before as often as in the source.

    Args:
        source_bytes: how much of the standard library is read.
        seed: of what is drawn.
    """

    def __init__(self, source_bytes: int, seed: int) -> None:
        self.source = list(_library(source_bytes))
        numbering: dict[str, int] = {}
        words = _WORD.findall("\n".join(self.source))
        numbers = np.fromiter((numbering.setdefault(word, len(numbering)) for word in words), np.int64, len(words))
        self._words = list(numbering)
        self._followers = numbers[1:][np.argsort(numbers[:-1], kind="stable")]
        self._counts = np.bincount(numbers[:-1], minlength=len(self._words))
        self._starts = np.cumsum(self._counts) - self._counts
        self._draw = np.random.default_rng(seed)

    def documents(self, text_bytes: int) -> Iterator[str]:
        """Documents of different lengths, `text_bytes` of UTF-8 or a little more in all."""
        done = 0
        while done < text_bytes:
            words = self._chains().ravel().tolist()
            ends = np.cumsum(np.exp(self._draw.normal(_MEAN_LOG, _SPREAD_LOG, len(words) // 100)).astype(np.int64) + 1)
            ends = ends[: np.searchsorted(ends, len(words), side="right")]
            for start, end in pairwise([0, *ends.tolist()]):
                text = "".join(map(self._words.__getitem__, words[start:end]))
                done += len(text.encode())
                yield text
                if done >= text_bytes:
                    return

    def document(self, text_bytes: int) -> str:
        """One document, of `text_bytes` or a little more."""
        return "".join(self.documents(text_bytes))

    def _chains(self) -> np.ndarray:
        """(chains, words) numbers of words."""
        chains = np.empty((_CHAIN, _TOGETHER), np.int64)
        state = self._draw.integers(len(self._words), size=_TOGETHER)
        for step in range(_CHAIN):
            chains[step] = state
            left = np.maximum(self._counts[state], 1)  # the last word may be followed by none
            place = np.minimum(self._starts[state] + (self._draw.random(_TOGETHER) * left).astype(np.int64), len(self._followers) - 1)
            state = self._followers[place]
        return chains.T


def write_lines(path: Path, texts: Iterator[str]) -> int:
    """JSON lines; the bytes of the texts themselves come back."""
    written = 0
    with path.open("w", encoding="utf-8") as lines:
        for text in texts:
            written += len(text.encode())
            lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return written


def _library(most: int) -> Iterator[str]:
    folder, read = Path(sysconfig.get_path("stdlib")), 0
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" in path.parts or read >= most:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # tests of the library, about such files
            continue
        read += len(text)
        yield text
