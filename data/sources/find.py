"""From files, folders, globs and URLs to the list of files to read: each once, in an order that depends on nothing but their names."""

import glob
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .dataset_folder import is_cache, without_descriptions
from .formats import BINARY_SUFFIXES, VENDORED, format_by_name, inner_suffix
from .opening import is_remote
from .source import Entry, Source, file_source

PYTHON_STDLIB = "python_stdlib"
STDIN = "-"
HUB = "hf://datasets/"

_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
_WAY = "check the path; quote a glob so that the shell leaves it alone"


@dataclass
class Found:
    """The files, in the order in which they are read, and how many were left out of the folders, by cause."""

    sources: list[Source]
    left_out: Counter[str] = field(default_factory=Counter)


def find_sources(inputs: Sequence[str | dict[str, Any]], *, left_out: Path | None = None, spool: Path | None = None) -> Found:
    """The files behind `inputs`: each entry's in sorted order, each file once.

    Args:
        inputs: files, folders (all files below, but hidden ones, known binaries and vendored code), globs (`**` goes through folders),
            URLs, `hf://datasets/<name>`, `python_stdlib`, `-` for stdin; or mappings as in `source.Entry`.
        left_out: a folder whose files do not count: an earlier output inside an input folder.
        spool: folder for what comes from stdin, which cannot be read twice.

    Raises:
        DataError: an entry names no file, or one that cannot be reached.
    """
    found = Found([])
    seen: set[str] = set()
    barred = left_out.resolve() if left_out else None
    for given in inputs:
        for source in _sources(Entry.of(given), found.left_out, spool):
            local = source.named and source.path.startswith(f"{spool}{os.sep}") if spool else False
            real = source.path if is_remote(source.path) else os.path.realpath(source.path)
            inside = barred is not None and not local and not is_remote(real) and Path(real).is_relative_to(barred)
            if real not in seen and not inside:
                seen.add(real)
                found.sources.append(source)
    if not found.sources:
        raise DataError("input names no file", do="set input= to a file, a folder or a glob")
    return Found(found.sources, +found.left_out)  # only causes that occurred


def _sources(entry: Entry, counts: Counter[str], spool: Path | None) -> Iterator[Source]:
    path = entry.path
    if path == PYTHON_STDLIB:
        yield from (file_source(file, entry) for file in _standard_library())
    elif path == STDIN:
        from .stdin import spooled

        yield spooled(spool, entry)
    elif path.startswith(HUB) and _is_dataset_name(path.removeprefix(HUB)):
        from .hub import hub_sources

        yield from hub_sources(entry, path.removeprefix(HUB))
    elif is_remote(path):
        from .remote import remote_sources

        yield from remote_sources(entry, counts)
    else:
        yield from _local(entry, os.path.expanduser(path), counts)


def _is_dataset_name(name: str) -> bool:
    """Of a whole dataset, not of files in it: `name` or `owner/name`."""
    return name.count("/") < 2 and not glob.has_magic(name)


def _local(entry: Entry, path: str, counts: Counter[str]) -> Iterator[Source]:
    if entry.split and not os.path.isdir(path):
        message = f"input={path}: split={entry.split} is given, but it is no folder with a dataset"
        raise DataError(message, do="leave split= away", file=path)
    if os.path.isdir(path):
        kept = list(selected(_below(path, counts), path, entry.format, counts))
        files = without_descriptions(kept, path, entry.split)
        if not files:
            raise DataError(f"input folder {entry.path} holds no text file", do=_WAY, file=path)
        yield from (file_source(file, entry, named=False) for file in files)
        return
    files = [path] if os.path.isfile(path) else sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    if not files:
        raise _no_file(entry, path)
    yield from (file_source(file, entry) for file in files)


def _no_file(entry: Entry, path: str) -> DataError:
    if glob.has_magic(path):
        folders = ", only folders" if glob.glob(path, recursive=True) else ""
        return DataError(f"input={entry.path} matches no file{folders}", do=_WAY, file=path)
    if os.path.exists(path):  # a pipe may be named, as by <(zcat a.gz)
        way = "take input=- for what comes through a pipe: zcat a.gz | hexareme prepare input=- ..."
        return DataError(f"input={entry.path} is no regular file", do=way, file=path)
    broken = ", it is a link to nothing" if os.path.islink(path) else ""
    return DataError(f"input={entry.path} does not exist{broken}", do=_WAY, file=path)


def _below(folder: str, counts: Counter[str]) -> list[str]:
    """All files below a folder, sorted, but hidden ones and those in hidden folders, such as .git; links to folders are not followed."""
    files = []
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        shown = [name for name in folders if not name.startswith(".")]
        counts["hidden"] += len(folders) - len(shown) + sum(name.startswith(".") for name in names)
        counts["linked folders"] += sum(os.path.islink(os.path.join(where, name)) for name in shown)
        folders[:] = shown
        files += [os.path.join(where, name) for name in names if not name.startswith(".")]
    kept = sorted(filter(os.path.isfile, files))
    counts["links to nothing, pipes and devices"] += len(files) - len(kept)
    return kept


def _unreadable(error: OSError) -> None:
    """What cannot be listed must not be missing from a corpus in silence."""
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}", do="check its permissions", file=error.filename) from error


def selected(files: Sequence[str], root: str, forced: str, counts: Counter[str]) -> Iterator[str]:
    """What of the files of a folder is read: no images, archives and other binaries, no caches, no code of others.

    Args:
        files: paths or URLs below `root`.
        forced: format that the entry says.
        counts: of what is left out, by cause; grows.
    """
    for file in files:
        folders = file[len(root) :].lower().split("/")[:-1]
        code = (forced or format_by_name(file)) == "code"
        if inner_suffix(file) in BINARY_SUFFIXES:
            counts["binary"] += 1
        elif is_cache(file):
            counts["cache"] += 1
        elif code and VENDORED.intersection(folders):
            counts["vendored"] += 1
        else:
            yield file


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
