"""A file to read, and an entry of the input that names some."""

import os
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .formats import FORMATS, format_by_name


@dataclass(frozen=True)
class Source:
    """A file to read.

    Args:
        path: of a local file, or a URL that fsspec knows.
        size: bytes, as it lies there; 0 where a server does not say.
        mark: what changes when the file does: time of change, or ETag.
        format: one of `formats.FORMATS`, or "": as its name and its first bytes tell.
        text_key: key or column of the text, or "": the common one.
        named: not merely found in a folder; then nothing of it is left out.
    """

    path: str
    size: int
    mark: str
    format: str = ""
    text_key: str = ""
    named: bool = True

    @property
    def may_hold_html(self) -> bool:
        """Whether documents of kind "html" may come of it, as far as its name tells."""
        return (self.format or format_by_name(self.path) or "html") in ("html", "warc")


def file_source(path: str | os.PathLike[str], entry: "Entry | None" = None, *, named: bool = True) -> Source:
    """An existing local file as it is now."""
    status = os.stat(path)
    form, text_key = (entry.format, entry.text_key) if entry else ("", "")
    return Source(os.fspath(path), status.st_size, str(status.st_mtime_ns), form, text_key, named)


@dataclass(frozen=True)
class Entry:
    """One entry of `input`: a path, or a mapping with a path and what to know about its files.

    Args:
        path: file, folder, glob, URL, `python_stdlib`, or `-` for stdin.
        format: one of `formats.FORMATS`; "": by name and first bytes.
        text_key: key or column of the text, if these files have another than the others.
        split: of a Hugging Face dataset; from the hub "train" unless said.
        subset: configuration of a dataset on the hub.
    """

    path: str
    format: str = ""
    text_key: str = ""
    split: str = ""
    subset: str = ""

    @classmethod
    def of(cls, given: Any) -> "Entry":
        """From what the user wrote.

        Raises:
            DataError: neither a path nor such a mapping.
        """
        keys = tuple(cls.__dataclass_fields__)
        mapping = dict(given) if isinstance(given, dict) else {"path": given}
        wrong = sorted(str(key) for key in mapping if key not in keys)
        if wrong or not all(isinstance(value, str) for value in mapping.values()) or not mapping.get("path"):
            why = f"unknown key {wrong[0]}" if wrong else "each value must be a text, and path must be there"
            raise DataError(f"input={given!r}: {why}", do=f"write a path, or a mapping with {', '.join(keys)}")
        entry = cls(**mapping)
        if entry.format and entry.format not in FORMATS:
            raise DataError(f"input={entry.path}: format={entry.format} is unknown", do=f"use one of {', '.join(FORMATS)}")
        return entry
