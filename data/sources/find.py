"""From files, folders and globs to the list of files to read: each once, in an order that depends on nothing but their names."""

import glob
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .formats import BINARY_SUFFIXES, format_by_name, inner_suffix

PYTHON_STDLIB = "python_stdlib"

_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}


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


@dataclass
class Found:
    """The files, in the order in which they are read, and how many were left out of the folders, by cause."""

    sources: list[Source]
    left_out: dict[str, int] = field(default_factory=dict)


def find_sources(inputs: Sequence[str | dict[str, Any]], *, left_out: Path | None = None) -> Found:
    """The files behind `inputs`: each entry's in sorted order, each file once.

    Args:
        inputs: files, folders (all files below, but hidden ones and known binaries), globs (`**` goes through folders), or `python_stdlib`.
        left_out: a folder whose files do not count: an earlier output inside an input folder.

    Raises:
        DataError: an entry names no file.
    """
    found: dict[str, Source] = {}
    for entry in inputs:
        for path in _files(str(entry)):
            real = os.path.realpath(path)
            if left_out is None or not Path(real).is_relative_to(left_out.resolve()):
                found.setdefault(real, file_source(path))
    if not found:
        raise DataError("input names no file", do="set input= to a file, a folder or a glob")
    return Found(list(found.values()))


def file_source(path: str | os.PathLike[str]) -> Source:
    """An existing file as it is now."""
    status = os.stat(path)
    return Source(os.fspath(path), status.st_size, str(status.st_mtime_ns))


def _files(entry: str) -> list[str]:
    if entry == PYTHON_STDLIB:
        return _standard_library()
    path = os.path.expanduser(entry)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        files = _below(path)
        nothing = f"input folder {entry} holds no text file"
    else:
        files = sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
        nothing = f"input={entry} matches no file" if glob.has_magic(path) else f"input={entry} does not exist"
    if not files:
        raise DataError(nothing, do="check the path; quote a glob so that the shell leaves it alone", file=entry)
    return files


def _below(folder: str) -> list[str]:
    """All files below a folder, sorted; left out are hidden files and folders, such as .git, and images, archives and other binaries."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(where, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if os.path.isfile(file) and inner_suffix(file) not in BINARY_SUFFIXES)


def _standard_library() -> list[str]:
    """The source of this Python's own library: real text on every machine, with nothing to download."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _STDLIB_LEFT_OUT]
        files += [os.path.join(where, name) for name in names if name.endswith(".py")]
    if not files:
        raise DataError(f"no source of the standard library in {root}", do="give another input", file=root)
    return sorted(files)
