"""A JSON object of 100 MB, in less memory than json.loads of its text takes.

Python keeps a text with one emoji in four bytes a character, and json.loads needs the line and what is in it at once. Here the bytes are
read as Latin-1, one byte a character: what JSON is made of is ASCII, so the same strings are found, and each becomes UTF-8 by itself.
A character that is spelled by its number would be taken for bytes: it becomes UTF-8 first.
"""

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any

LARGE = 1 << 23  # bytes
_PIECE = 1 << 20
_OBJECT = re.compile(rb"[ \t\r\n]*\{")
# Characters beyond ASCII spelled by their number, a pair of surrogates never cut. (A backslash before them may itself stand behind one.)
_PAIR, _ONE = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}", rb"\\u(?!00[0-7])[0-9a-fA-F]{4}"
_SPELLED = re.compile(rb"(?<!\\)(?:\\\\)*((?:%b|%b){1,1000})" % (_PAIR, _ONE))


def is_large_object(data: bytes | memoryview) -> bool:
    """Whether `parse_large` is worth its time: a line of ASCII alone is small in memory, whatever its escapes mean."""
    return len(data) > LARGE and _OBJECT.match(data) is not None and not all(map(bytes.isascii, _pieces(data)))


def parse_large(data: bytes | memoryview) -> Any:
    """The value of a JSON text.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
        ValueError, RecursionError: as json.loads.
    """
    decoder = getincrementaldecoder("utf-8")()
    for piece in _pieces(data):
        decoder.decode(piece)
    decoder.decode(b"", final=True)
    return _decoded(json.loads(_latin(data)))


def _pieces(data: bytes | memoryview) -> Iterator[bytes]:
    return (bytes(data[start : start + _PIECE]) for start in range(0, len(data), _PIECE))


def _latin(data: bytes | memoryview) -> str:
    """The text, each byte of its UTF-8 a character."""
    found = _SPELLED.search(data)
    if not found:
        return str(data, "latin-1")
    changed, end = bytearray(), 0
    while found:
        changed += data[end : found.start(1)]
        # A lone surrogate is legal JSON: it stays one. In bytes that are UTF-8 there is no other.
        changed += json.loads(b'"%b"' % found[1]).encode("utf-8", "surrogatepass")
        end = found.end()
        found = _SPELLED.search(data, end)
    changed += data[end:]
    return changed.decode("latin-1")


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("latin-1").decode("utf-8", "surrogatepass")
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    # Each string is dropped as soon as it is decoded.
    return {_decoded(key): _decoded(value.pop(key)) for key in list(value)} if isinstance(value, dict) else value
