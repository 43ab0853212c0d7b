"""The folder that `prepare` fills: locked, recognised when it is already there, and committed as a whole."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from ..errors import DataError
from ..sources.find import Source
from ..tokens.description import FILE_NAME, SOURCES, CorpusDescription, described_files, read_description, write_description

RECORD = "prepare.json"
REJECTS = "rejects.jsonl"
PARTS = ("train", "validation")
STAGING = ".preparing"
SPOOL = ".stdin"  # what came from a pipe
REPORTS = ("clean_report.json", "clean_report.html")

# What a corpus folder may hold besides corpus.json: token files, arrays beside them, and the rest.
_TOKEN_FILES = tuple(f"{part}.{pattern}" for part in PARTS for pattern in ("bin", "idx", "*.bin"))
_OTHERS = ("tokenizer", SOURCES, REJECTS, RECORD, *REPORTS)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other `prepare` away from the folder; the lock ends with the process, however that ends.

    Raises:
        DataError: another one is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"another prepare is writing {folder}", do="wait for it, or choose another output", file=folder) from error
    finally:
        os.close(descriptor)


def input_record(sources: Sequence[Source], recipe: Mapping[str, Any], also_read: Sequence[Source] = ()) -> dict[str, Any]:
    """What the corpus is made of, to be compared by a later call. Files count by path, size and time of change.

    Args:
        sources: the input files.
        recipe: plain values.
        also_read: an existing tokenizer, lists of the cleaning rules.
    """
    return {
        "version": 2,
        "files": len(sources),
        "input": _fingerprint(sources, with_path=True),
        "recipe": json.loads(json.dumps(recipe)),  # as it comes back from a file: with lists for tuples
        "also_read": _fingerprint(also_read, with_path=False),
    }


def _fingerprint(sources: Sequence[Source], *, with_path: bool) -> str:
    files = xxhash.xxh3_128()
    for source in sources:
        path = source.path if "://" in source.path or not with_path else os.path.abspath(source.path)
        facts = [path if with_path else "", source.size, source.mark, source.format, source.text_key]
        files.update(json.dumps(facts).encode())
    return files.hexdigest()


def finished(folder: Path, record: Mapping[str, Any], *, overwrite: bool) -> tuple[CorpusDescription, dict[str, Any]] | None:
    """What lies in the folder, if it is the corpus that `record` asks for: its description and its counts.

    Returns:
        None where the folder may be filled.

    Raises:
        DataError: something else lies there, and `overwrite` does not say that it may go.
    """
    way = "choose another output, or overwrite=true"
    if not (folder / FILE_NAME).exists():
        # Remains of a killed prepare are ours; without its staging folder, anything but what a failed one tells is not.
        foreign = {path.name for path in folder.iterdir()} - {REJECTS, STAGING, SPOOL, *REPORTS}
        if foreign and not (folder / STAGING).exists():
            raise DataError(f"{folder} holds {min(foreign)} but no corpus", do="choose another output", file=folder)
        return None
    if overwrite:
        return None
    description = read_description(folder)
    for file, entry in described_files(description):
        if not (folder / file).is_file() or (folder / file).stat().st_size != entry.size:
            raise DataError(f"the corpus at {folder} is damaged: {file} is missing or has another size", do=way, file=folder / file)
    try:
        there = json.loads((folder / RECORD).read_text())
        old, new = flat(there["made_of"]), flat(record)
        differing = sorted(key for key in old | new if old.get(key) != new.get(key))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        differing = [f"no {RECORD}"]
    if differing:
        message = f"{folder} holds a corpus made from another input or with other settings ({', '.join(differing)} differ)"
        raise DataError(message, do=way, file=folder)
    return description, there["counts"]


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Each plain value under its full key, as in `recipe.clean.pii.enabled`."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def write_record(folder: Path, record: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Writes what `finished` will compare and return."""
    (folder / RECORD).write_text(json.dumps({"made_of": record, "counts": counts}, indent=1) + "\n")


def movable(staging: Path) -> list[str]:
    """Of what lies in the staging folder, what belongs into the corpus folder."""
    return sorted({path.name for pattern in (*_TOKEN_FILES, *_OTHERS) for path in staging.glob(pattern)})


def commit(staging: Path, folder: Path, description: CorpusDescription, files: Sequence[str]) -> None:
    """Moves files from the staging folder to their place; `corpus.json` goes first and comes last, so no mixture is ever a corpus.

    Interrupted, it goes on when called again with the same arguments.

    Args:
        staging: from where.
        folder: to where.
        description: for `corpus.json`.
        files: names from `movable`.
    """
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    (folder / FILE_NAME).unlink(missing_ok=True)
    for name in movable(folder):
        if name not in files:
            _remove(folder / name)
    for name in files:
        if (staging / name).exists():
            _remove(folder / name)
            os.replace(staging / name, folder / name)
    write_description(folder, description)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
