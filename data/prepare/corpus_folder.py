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
from ..tokens.description import FILE_NAME, CorpusDescription, read_description, write_description
from .sources import Source

RECORD = "prepare.json"
REJECTS = "rejects.jsonl"
PARTS = ("train", "validation")
STAGING = ".preparing"

_FILES = (*(f"{part}.{suffix}" for part in PARTS for suffix in ("bin", "idx")), "tokenizer", REJECTS, RECORD)


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


def input_record(sources: Sequence[Source], recipe: Mapping[str, Any], tokenizer: Source | None) -> dict[str, Any]:
    """What the corpus is made of, to be compared by a later call. Files count by path, size and time of change.

    Args:
        sources: the input files.
        recipe: plain values.
        tokenizer: the existing tokenizer file, if one is used.
    """
    files = xxhash.xxh3_128()
    for source in sources:
        files.update(f"{os.path.abspath(source.path)}\0{source.size}\0{source.mtime_ns}\0".encode(errors="surrogateescape"))
    read_tokenizer = None if tokenizer is None else [tokenizer.size, tokenizer.mtime_ns]
    return {"version": 1, "files": len(sources), "input": files.hexdigest(), "recipe": dict(recipe), "tokenizer": read_tokenizer}


def finished(folder: Path, record: Mapping[str, Any], *, overwrite: bool) -> tuple[CorpusDescription, dict[str, Any]] | None:
    """What lies in the folder, if it is the corpus that `record` asks for: its description and its counts.

    Returns:
        None where the folder may be filled.

    Raises:
        DataError: something else lies there, and `overwrite` does not say that it may go.
    """
    way = "choose another output, or overwrite=true"
    if not (folder / FILE_NAME).exists():
        # Remains of a killed prepare are ours; without its staging folder, anything but a list of rejects is not.
        foreign = {path.name for path in folder.iterdir()} - {REJECTS, STAGING}
        if foreign and not (folder / STAGING).exists():
            raise DataError(f"{folder} holds {min(foreign)} but no corpus", do="choose another output", file=folder)
        return None
    if overwrite:
        return None
    description = read_description(folder)
    for name, part in description.parts.items():
        for file, size in ((f"{name}.bin", part.bin.size), (f"{name}.idx", part.idx.size)):
            if not (folder / file).is_file() or (folder / file).stat().st_size != size:
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


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the recipe beside the other entries."""
    return {**record, "recipe": None, **{f"recipe.{key}": value for key, value in record["recipe"].items()}}


def write_record(folder: Path, record: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Writes what `finished` will compare and return."""
    (folder / RECORD).write_text(json.dumps({"made_of": record, "counts": counts}, indent=1) + "\n")


def commit(staging: Path, folder: Path, description: CorpusDescription) -> None:
    """Moves everything from the staging folder to its place; `corpus.json` goes first and comes last, so no mixture is ever a corpus."""
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    (folder / FILE_NAME).unlink(missing_ok=True)
    for name in _FILES:
        old, new = folder / name, staging / name
        if old.is_dir():
            shutil.rmtree(old)
        elif not new.exists():
            old.unlink(missing_ok=True)
        if new.exists():
            os.replace(new, old)
    write_description(folder, description)
