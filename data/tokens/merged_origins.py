"""Where the documents of a merged corpus came from: the arrays and names of its inputs, end to end."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .arrays import ArrayWriter, array_path, open_array
from .description import SOURCES, ArrayDescription, CorpusDescription, FileDescription
from .hashed_file import HashedFile
from .raw_origins import FILE, LINE, UNKNOWN, has_origins, open_names

_NUMBERS = 1 << 17  # at a time
_BYTES = 1 << 20

Arrays = dict[str, dict[str, ArrayDescription]]


def merge_origins(folders: Sequence[Path], descriptions: Sequence[CorpusDescription], output: Path,
                  tick: Callable[[], None]) -> tuple[FileDescription | None, Arrays]:
    """Writes the origins beside the merged tokens; of an input that has none they stay unknown.

    Args:
        folders, descriptions: of the inputs, in their order, all with the same parts.
        output: the folder in the making.
        tick: a sign of progress.

    Returns:
        The entries for `corpus.json`: of the names, and of the arrays by part; (None, {}) where no input has any.

    Raises:
        DataError: an input is damaged.
    """
    if not any(description.sources for description in descriptions):
        return None, {}
    begins, names = _merge_names(folders, descriptions, output)
    arrays: Arrays = {}
    for part in descriptions[0].parts:
        with ArrayWriter(array_path(output, part, FILE), "int64") as files, ArrayWriter(array_path(output, part, LINE), "int64") as lines:
            for folder, description, begin in zip(folders, descriptions, begins, strict=True):
                _append(folder, part, description, begin, files, lines, tick)
            arrays[part] = {FILE: files.finish(), LINE: lines.finish()}
    return names, arrays


def _merge_names(folders: Sequence[Path], descriptions: Sequence[CorpusDescription], output: Path) -> tuple[list[int], FileDescription]:
    """The names of all inputs, and the byte at which those of each begin."""
    begins = []
    with HashedFile(output / SOURCES) as merged:
        for folder, description in zip(folders, descriptions, strict=True):
            begins.append(merged.size)
            if description.sources:
                names = open_names(folder, description.sources)
                for at in range(0, len(names), _BYTES):
                    merged.write(names.read(at, _BYTES).tobytes())
        return begins, merged.finish()


def _append(folder: Path, part: str, description: CorpusDescription, begin: int, files: ArrayWriter, lines: ArrayWriter,
            tick: Callable[[], None]) -> None:
    """One part of one input."""
    entry = description.parts[part]
    known = has_origins(description, part)
    inputs = [open_array(array_path(folder, part, name), entry.arrays[name], tick) for name in (FILE, LINE) if known]
    for at in range(0, entry.documents, _NUMBERS):
        count = min(_NUMBERS, entry.documents - at)
        if not known:
            files.add(np.full(count, UNKNOWN))
            lines.add(np.zeros(count, dtype=np.int64))
        else:
            places = inputs[0].read(at, count)
            files.add(np.where(places == UNKNOWN, UNKNOWN, places + begin))
            lines.add(inputs[1].read(at, count))
        tick()
