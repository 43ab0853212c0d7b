"""A long text in parts whose ids, one after the other, are those of the whole: bounds the memory of an encoder.

An encoder takes hundreds of bytes a character, so a document of 100 MB is never given to it whole. A part ends only where no piece of
the tokenizer can lie across. Which places those are depends on the tokenizer; each names its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

PART = 1 << 18  # characters; also far below the million at which the regular expressions of tiktoken overflow their stack
LETTER = r"[^\W\d_]"


@dataclass(frozen=True)
class Cutter:
    """Cuts long texts.

    Args:
        boundary: matches the empty string at the places where a text may be cut; None: there are none.
        skip: what a part after the first begins with, and the tokenizer puts before every text by itself: it is left out.
        part: characters of a part, where there are boundaries.
        longest: characters of the longest run without a boundary that is kept whole: an encoder in memory that is less than 1 GB cannot
            take more at once. Beyond it, no natural text, the ids around the cut are those of the two parts.
    """

    boundary: re.Pattern[str] | None
    skip: str = ""
    part: int = PART
    longest: int = 1 << 20

    def __call__(self, text: str) -> Iterator[str]:
        """The parts, in order; at least one."""
        start = 0
        while len(text) - start > self.part:
            end = self._end(text, start)
            if end == len(text):
                break
            yield text[start:end]
            start = end + len(self.skip) if self.skip and text.startswith(self.skip, end) else end
        yield text[start:]

    def _end(self, text: str, start: int) -> int:
        if self.boundary:
            for begin, end in ((start + self.part // 2, start + self.part), (start + self.part, start + self.longest)):
                # Two characters more than allowed, so that the boundary can look ahead.
                if (found := self.boundary.search(text, begin, end + 2)) and found.start() <= end:
                    return found.start()
        return min(start + self.longest, len(text))


def cut(text: str, limit: int = PART) -> list[str]:
    """Cuts a long text between words or, failing that, every `limit` characters: for what need not be exact, such as training.

    Args:
        text: any text; joining the parts gives it back.
        limit: the longest part, in characters.
    """
    return list(Cutter(re.compile(rf"(?<={LETTER})(?=[ \n]{LETTER})"), part=limit, longest=limit)(text))
