"""Where whole lines end, for those who read them elsewhere: nothing is kept or copied, so that one process can feed many workers."""

from collections.abc import Iterable, Iterator

import numpy as np

from .cut import HEAD, MOST_RECORD, Piece


def line_pieces(stream: Iterable[bytes], *, least: int, most: int = MOST_RECORD) -> Iterator[Piece]:
    """As `cut.pieces` of lines with keep=False, in a third of its time.

    Args:
        stream, least, most: as there.
    """
    grown = _Grown(least)
    for data in stream:
        start = 0
        while start < len(data):
            found = data.find(b"\n", start + max(0, least - grown.size - 1))
            end = found + 1 if found >= 0 else len(data)
            grown.add(data, start, end)
            start = end
            if found >= 0:
                yield from grown.pieces(most)
                grown = _Grown(least)
    if grown.size:
        yield from grown.pieces(most)


class _Grown:
    """A piece in the making; `border`: where its last line begins, as far as that lies before `least`."""

    def __init__(self, least: int) -> None:
        self.size = 0
        self._least = least
        self._border = self._feeds = 0
        self._head = b""
        self._ended = False

    def add(self, data: bytes, start: int, end: int) -> None:
        """Bytes of the stream."""
        before = data.rfind(b"\n", start, min(end, start + max(0, self._least - self.size - 1)))
        if before >= 0:
            self._border = self.size + before + 1 - start
        if len(self._head) < HEAD:
            self._head += data[start : min(end, start + HEAD - len(self._head))]
        self._feeds += int(np.count_nonzero(np.frombuffer(data, np.uint8, end - start, start) == 10))  # 4 times as fast as bytes.count
        self._ended = data[end - 1] == 10
        self.size += end - start

    def pieces(self, most: int) -> Iterator[Piece]:
        """One, or two where the last line is too long to keep."""
        if self.size - self._border <= most:
            yield Piece(self._head, self.size, self._feeds)
            return
        last = int(self._ended)  # the long line holds no line feed but its own
        if self._border:
            yield Piece(self._head[: self._border], self._border, self._feeds - last)
        yield Piece(b"", self.size - self._border, last, dropped=True)
