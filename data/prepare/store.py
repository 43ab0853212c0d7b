"""Cleaned documents on their way from one pass to the next: frames of about 1 MiB of text, compressed, in the staging folder.

The file is a row of frames: bytes of the compressed frame and number of its documents (both uint32), then the zstd frame with its own
checksum. In it: number of documents (int64); hashes (uint64), bytes of each text, line numbers and file numbers (int64), all of that per
document; then bytes of the list of files (int64), that list as JSON, and the texts end to end in UTF-8. Little-endian. Workers compress
and decompress; the parent only moves frames.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..tokens.appended_file import AppendedFile
from .journal import StagingDamaged

_HEAD = struct.Struct("<II")
_LEVEL = 1  # 300 MB/s; the store lives for hours only


@dataclass(frozen=True)
class StoredDocument:
    """A cleaned text, its UTF-8, the XXH3-64 of that, and where it came from."""

    text: str
    data: bytes
    hash: int
    file: str
    line: int


@dataclass(frozen=True)
class Frame:
    """Documents of one chunk, compressed.

    Args:
        data: a zstd frame.
        documents: how many it holds.
        first: number of its first document in the whole store.
        gone: for each document which rule over the whole corpus removes it, 0: none; empty: none of them.
    """

    data: bytes
    documents: int
    first: int = 0
    gone: bytes = b""

    @property
    def read(self) -> int:
        """Bytes of the store that it stands for."""
        return len(self.data) + _HEAD.size

    def unpack(self) -> Iterator[StoredDocument]:
        """All of its documents, also those that are gone.

        Raises:
            ValueError, ZstdError: it is not what `pack` has made.
        """
        from zstandard import ZstdDecompressor

        raw = memoryview(ZstdDecompressor().decompress(self.data))
        count, start = self.documents, 8
        if np.frombuffer(raw, "<i8", 1)[0] != count:
            raise ValueError("another number of documents")
        hashes = np.frombuffer(raw, "<u8", count, start)
        sizes, lines, numbers = np.frombuffer(raw, "<i8", 3 * count, start + 8 * count).reshape(3, count).tolist()
        (listed,) = np.frombuffer(raw, "<i8", 1, start + 32 * count).tolist()
        start += 32 * count + 8
        files = json.loads(bytes(raw[start : start + listed]))
        start += listed
        for i, value in enumerate(hashes.tolist()):
            data = bytes(raw[start : start + sizes[i]])
            start += sizes[i]
            yield StoredDocument(data.decode(), data, value, files[numbers[i]], lines[i])


def pack(documents: Sequence[StoredDocument]) -> Frame:
    """Compresses documents."""
    from zstandard import ZstdCompressor

    files = {document.file: None for document in documents}
    numbers = {file: i for i, file in enumerate(files)}
    # Names of files may hold bytes that are no UTF-8 (lone surrogates in Python): JSON escapes them.
    listed = json.dumps(list(files)).encode()
    row = np.array([[len(d.data), d.line, numbers[d.file]] for d in documents], "<i8").reshape(-1, 3).T
    hashes = np.array([d.hash for d in documents], "<u8")
    parts = [_number(len(documents)), hashes.tobytes(), row.tobytes(), _number(len(listed)), listed, *(d.data for d in documents)]
    data = ZstdCompressor(level=_LEVEL, write_checksum=True).compress(b"".join(parts))
    return Frame(data, len(documents))


def _number(value: int) -> bytes:
    return struct.pack("<q", value)


def add_frame(file: AppendedFile, frame: Frame) -> None:
    """Appends a frame to the store."""
    file.write(_HEAD.pack(len(frame.data), frame.documents))
    file.write(frame.data)


def read_frames(path: Path, *, size: int, start: tuple[int, int], gone: np.ndarray | None) -> Iterator[tuple[Frame, tuple[int, int]]]:
    """The frames of a finished store, each with the place behind it: (byte, number of the next document).

    Args:
        path: of the store.
        size: its bytes.
        start: such a place.
        gone: uint8, for each document of the store; see `Frame`.

    Raises:
        StagingDamaged: the file is shorter, or no row of frames.
    """
    at, first = start
    with path.open("rb") as stream:
        stream.seek(at)
        while at < size:
            head = stream.read(_HEAD.size)
            length, documents = _HEAD.unpack(head) if len(head) == _HEAD.size else (size, 0)
            data = stream.read(length) if at + _HEAD.size + length <= size else b""
            if len(data) < length:
                raise StagingDamaged(f"{path.name} is damaged at byte {at}")
            removed = b"" if gone is None else gone[first : first + documents].tobytes()
            frame = Frame(data, documents, first, removed)
            at, first = at + frame.read, first + documents
            yield frame, (at, first)
