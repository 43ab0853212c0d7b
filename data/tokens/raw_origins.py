"""Where the documents of a corpus came from: the raw file and its line (row, record) of each.

Beside the tokens of a part lie two arrays of int64, one number a document: `line`, and `file`, the byte of `sources.jsonl` at which the
file's name begins. That file is one for the corpus: a JSON string on each line, in the order in which files were read. So whoever writes
remembers only the last name, and whoever reads finds a name by one seek, for any number of files.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import DataError
from .arrays import ArrayWriter, MappedArray, array_path, open_array
from .description import PREPARE_AGAIN, SOURCES, ArrayDescription, CorpusDescription, FileDescription, read_description
from .hashed_file import FilePosition, HashedFile
from .joined import Tokens
from .places import locate

FILE, LINE = ORIGINS = "file", "line"  # the arrays
UNKNOWN = -1  # in `file`: the document was merged in from a corpus that does not know

_PIECE = 4096  # bytes of the names that are read at a time


class RawOriginWriter:
    """Writes the origins of all parts of a corpus; use it as a context manager.

    Args:
        folder: the staging folder.
        parts: their names.
        state: what `state` gave, where an interrupted one goes on; None at the beginning.

    Raises:
        DataError: what lies there is not what `state` says.
    """

    def __init__(self, folder: Path, parts: Sequence[str], state: Mapping[str, Any] | None = None) -> None:
        self._last: str = state["last"][0] if state else ""
        self._at: int = state["last"][1] if state else UNKNOWN
        with ExitStack() as stack:
            start = FilePosition(**state["names"]) if state else None
            self._names = stack.enter_context(HashedFile(folder / SOURCES, start))
            self._arrays: dict[str, dict[str, ArrayWriter]] = {}
            for part in parts:
                self._arrays[part] = {}
                for name in (FILE, LINE):
                    start = FilePosition(**state["arrays"][part][name]) if state else None
                    self._arrays[part][name] = stack.enter_context(ArrayWriter(array_path(folder, part, name), "int64", start=start))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, files: Sequence[str], origins: Mapping[str, np.ndarray]) -> None:
        """Appends documents.

        Args:
            files: paths or URLs, in the order in which they were read.
            origins: by part int64 (documents, 2): number in `files`, and line.
        """
        places = np.array([self._place(file) for file in files], dtype=np.int64)
        for part, arrays in self._arrays.items():
            arrays[FILE].add(places[origins[part][:, 0]])
            arrays[LINE].add(origins[part][:, 1])

    def state(self) -> dict[str, Any]:
        """How far it is, all of it safe on the disk; plain values."""
        arrays = {part: {name: asdict(array.position()) for name, array in arrays.items()} for part, arrays in self._arrays.items()}
        return {"names": asdict(self._names.position()), "arrays": arrays, "last": [self._last, self._at]}

    def finish(self) -> tuple[FileDescription, dict[str, dict[str, ArrayDescription]]]:
        """Makes all of it safe; gives the entries for `corpus.json`: of the names, and of the arrays by part."""
        arrays = {part: {name: array.finish() for name, array in arrays.items()} for part, arrays in self._arrays.items()}
        return self._names.finish(), arrays

    def _place(self, file: str) -> int:
        # Absolute: the corpus is looked at from elsewhere, and an interrupted `prepare` may go on from elsewhere.
        name = file if "://" in file else os.path.abspath(file)
        if name != self._last:
            self._last, self._at = name, self._names.size
            self._names.write((json.dumps(name) + "\n").encode())  # escapes line feeds, and what is no UTF-8
        return self._at


class _CorpusOrigins:
    """Those of one part of one corpus, verified."""

    def __init__(self, folder: Path, part: str, description: CorpusDescription) -> None:
        entry, sources = description.parts[part], description.sources
        assert sources
        self._path = folder / SOURCES
        self._names = open_names(folder, sources)
        self._files, self._lines = (open_array(array_path(folder, part, name), entry.arrays[name]) for name in (FILE, LINE))
        if not len(self._files) == len(self._lines) == entry.documents:
            message = f"{folder} has {len(self._files)} files and {len(self._lines)} lines for {entry.documents} documents of {part}"
            raise DataError(message, do=PREPARE_AGAIN, file=folder)

    def find(self, number: int) -> tuple[str, int] | None:
        at, line = int(self._files.read(number, 1)[0]), int(self._lines.read(number, 1)[0])
        return None if at == UNKNOWN else (self._name(at), line)

    def _name(self, at: int) -> str:
        data = b""
        while (rest := len(self._names) - at - len(data)) > 0 and b"\n" not in data:
            data += self._names.read(at + len(data), min(_PIECE, rest)).tobytes()
        try:
            name = json.loads(data.partition(b"\n")[0])
        except ValueError:
            name = None
        if at < 0 or not isinstance(name, str):
            raise DataError(f"no name begins at byte {at} of {self._path}", do=PREPARE_AGAIN, file=self._path)
        return name


class RawOrigins:
    """Where the documents of a token stream came from, as far as its corpora know.

    Args:
        tokens: of `open_corpus(path, part)`.
        path, part: the same.

    Raises:
        DataError: damaged.
    """

    def __init__(self, tokens: Tokens, path: str | os.PathLike[str], part: str = "train") -> None:
        self._tokens = tokens
        self._corpora: dict[Path, _CorpusOrigins] = {}
        for place in locate(path, part):
            folder, name = place.prefix.parent, place.prefix.name
            if place.description and has_origins(description := read_description(folder), name):
                self._corpora[place.bin] = _CorpusOrigins(folder, name, description)

    def find(self, document: int) -> tuple[str, int] | None:
        """Path or URL of the raw file of a document, and its line in there; None: not known.

        Raises:
            DataError: damaged, or truncated since it was opened.
        """
        file, number, _ = self._tokens.origin(document)
        corpus = self._corpora.get(file)
        return corpus.find(number) if corpus else None


def copy_names(source: Path, folder: Path) -> None:
    """`sources.jsonl` of one corpus for another one, safe on the disk; the arrays `file` of the first one hold in the second."""
    with (source / SOURCES).open("rb") as names, HashedFile(folder / SOURCES) as copy:
        while data := names.read(1 << 20):
            copy.write(data)
        copy.sync()


def open_names(folder: Path, sources: FileDescription) -> MappedArray:
    """The bytes of `sources.jsonl`, verified.

    Raises:
        DataError: damaged.
    """
    return open_array(folder / SOURCES, ArrayDescription(dtype="uint8", count=sources.size, file=sources))


def has_origins(description: CorpusDescription, part: str) -> bool:
    """Whether a corpus knows where the documents of a part came from; those of earlier versions do not."""
    return description.sources is not None and {FILE, LINE} <= description.parts[part].arrays.keys()
