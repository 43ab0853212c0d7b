"""A JSON object of 100 MB, in less memory than json.loads of its text takes.

Python keeps a text with one emoji in four bytes a character, and json.loads needs the line and what is in it at once. Here the bytes are
read as Latin-1, one byte a character: what JSON is made of is ASCII, so the same strings are found, and each becomes UTF-8 by itself.
"""

import json
import re
from codecs import getincrementaldecoder
from typing import Any

LARGE = 1 << 23  # bytes
_PIECE = 1 << 20
_OBJECT = re.compile(rb"[ \t\r\n]*\{")
# A character beyond ASCII that is spelled by its number would be taken for bytes. (A backslash may itself stand behind one.)
_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u(?!00[0-7])")


def is_large_object(data: bytes | memoryview) -> bool:
    """Whether `parse_large` is worth its time, and can read it."""
    return len(data) > LARGE and _OBJECT.match(data) is not None and not _ESCAPE.search(data)


def parse_large(data: bytes | memoryview) -> Any:
    """The value of a JSON text that spells no character beyond ASCII by its number.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
        ValueError, RecursionError: as json.loads.
    """
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):
        decoder.decode(data[start : start + _PIECE])
    decoder.decode(b"", final=True)
    return _decoded(json.loads(str(data, "latin-1")))


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    # Each string is dropped as soon as it is decoded.
    return {_decoded(key): _decoded(value.pop(key)) for key in list(value)} if isinstance(value, dict) else value


def _text(latin: str) -> str:
    decoder = getincrementaldecoder("utf-8")()
    return "".join([decoder.decode(latin[start : start + _PIECE].encode("latin-1")) for start in range(0, len(latin), _PIECE)])
