"""Files as streams of decompressed bytes, of as many members (gzip), frames (zstd) or streams (bz2, xz) as there are."""

import bz2
import lzma
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from .chunk import Place

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}

_RAW = 1 << 18  # bytes at a time of a file that is not compressed
_COMPRESSED = 1 << 14  # small, because a piece may come out thousands of times as large
_PIECE = 1 << 20  # decompressed bytes at a time, where the library can stop


class Stream:
    """The decompressed bytes of a file, from a place on.

    Args:
        raw: the file, open; it is read from its start or, where it can seek, from the member that holds the place.
        compression: a value of `COMPRESSIONS`, or "".
        place: where to begin.
    """

    def __init__(self, raw: BinaryIO, compression: str, place: Place) -> None:
        self._raw = raw
        self._compression = compression
        self._skip = place.offset
        self._starts: deque[tuple[int, int]] = deque([(0, 0)])  # (byte of the file, decompressed bytes before it)
        self._read = self._out = 0  # bytes taken from the file, decompressed bytes that came of them
        member, before = (place.member, place.member_offset) if compression else (place.offset, place.offset)
        if member and raw.seekable():
            raw.seek(member)
            self._read, self._out, self._skip = member, before, place.offset - before
            self._starts = deque([(member, before)])

    def pieces(self) -> Iterator[bytes]:
        """The bytes from the place on.

        Raises:
            EOFError: the last member is not complete, or damaged.
        """
        for data in self._members() if self._compression else self._plain():
            self._out += len(data)
            if self._skip >= len(data):
                self._skip -= len(data)
            elif self._skip:
                rest, self._skip = data[self._skip :], 0
                yield rest
            else:
                yield data

    def place(self, offset: int, line: int) -> Place:
        """The place at `offset`, which must not lie before an earlier one asked for."""
        while len(self._starts) > 1 and self._starts[1][1] <= offset:
            self._starts.popleft()
        member, before = self._starts[0]
        return Place(offset=offset, line=line, member=member, member_offset=before, consumed=self._read)

    def _plain(self) -> Iterator[bytes]:
        while data := self._raw.read(_RAW):
            self._read += len(data)
            yield data

    def _members(self) -> Iterator[bytes]:
        member = None
        while compressed := self._raw.read(_COMPRESSED):
            self._read += len(compressed)
            while compressed:
                if member is None:
                    if self._compression in ("gz", "xz") and not compressed.strip(b"\0"):
                        break  # padding behind the last member, as tape tools leave it
                    self._starts.append((self._read - len(compressed), self._out))
                    member = _new_member(self._compression)
                yield from _decompressed(member, compressed, self._compression)
                compressed = member.unused_data if member.eof else b""
                member = None if member.eof else member
        if member is not None:
            raise EOFError("the last part is not complete")


def _new_member(compression: str) -> Any:
    """A decompressor of one member. The four libraries agree on `decompress`, `eof` and `unused_data`."""
    if compression == "gz":
        return zlib.decompressobj(wbits=31)
    if compression == "bz2":
        return bz2.BZ2Decompressor()
    if compression == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)
    from zstandard import ZstdDecompressor

    return ZstdDecompressor().decompressobj()


def _decompressed(member: Any, data: bytes, compression: str) -> Iterator[bytes]:
    """What these bytes of a member give, in pieces of bounded size (but for zstd, whose library cannot stop)."""
    if compression == "zst":
        from zstandard import ZstdError

        with _damage_is_eof(ZstdError):
            yield member.decompress(data)
        return
    with _damage_is_eof(OSError, ValueError, zlib.error, lzma.LZMAError):
        yield member.decompress(data, _PIECE)
        if compression == "gz":
            while member.unconsumed_tail and not member.eof:
                yield member.decompress(member.unconsumed_tail, _PIECE)
        else:
            while not (member.eof or member.needs_input):
                yield member.decompress(b"", _PIECE)


@contextmanager
def _damage_is_eof(*errors: type[Exception]) -> Iterator[None]:
    """Each library has its own error for damaged data."""
    try:
        yield
    except errors as error:
        raise EOFError(str(error)) from error
