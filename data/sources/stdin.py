"""Text from a pipe. It cannot be read twice, so it is first written to a file, and known again by its content."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import xxhash

from ..errors import DataError
from .source import Entry, Source, file_source

_NAME = "stdin"


def spooled(folder: Path | None, entry: Entry, stream: BinaryIO | None = None) -> Source:
    """Writes the pipe to a file. Its format is told by its first bytes, as of any file without a suffix; plain text is one document.

    Args:
        folder: where to.
        entry: may force a format, such as `paragraphs`.
        stream: instead of the standard input.

    Raises:
        DataError: no pipe, or no folder.
    """
    stream = stream or sys.stdin.buffer
    if stream.isatty():
        raise DataError("input=- reads a pipe, but stdin is a terminal", do="write it as in: zcat a.gz | hexareme prepare input=- ...")
    if folder is None:
        raise DataError("input=- cannot be read here", do="write it to a file first, and name that")
    file = folder / _NAME
    with file.open("wb") as target:
        shutil.copyfileobj(stream, target, 1 << 20)
    digest = xxhash.xxh3_128()
    with file.open("rb") as source:
        while data := source.read(1 << 20):
            digest.update(data)
    return replace(file_source(os.fspath(file), entry), mark=digest.hexdigest())
