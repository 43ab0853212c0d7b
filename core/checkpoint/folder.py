"""The folder of a run's checkpoints: names, what is whole, the newest one, and what may go. Pure.

    checkpoints/step-00000100/            whole as soon as it has this name: renamed into place when everything is on disk
    checkpoints/.step-00000200.1f2e.tmp/  a save under way, or the remains of a dead one
    checkpoints/latest                    the name of the newest folder: a hint for people and tools, checked and never trusted
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError
from .manifest import MANIFEST, MOST_BYTES, Manifest, parse
from .storage import open_regular, patiently, read_bounded, sync_directory, write_durably
from .strict_json import DamagedError, damaged

LATEST = "latest"
MOST_HINT_BYTES = 100
_FOLDER = re.compile(r"step-([0-9]{8,18})")
_STAGED = re.compile(r"\.step-[0-9]{8,18}\..+\.tmp")
_log = logging.getLogger(__name__)


def folder_name(step: int) -> str:
    """Name of the folder that holds a step."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step a folder name stands for, or None."""
    found = _FOLDER.fullmatch(name)
    return int(found[1]) if found and folder_name(int(found[1])) == name else None


def step_folders(directory: Path) -> list[Path]:
    """Checkpoint folders, newest step first, whole or not. Links are passed over: they may lead anywhere."""
    if not directory.is_dir():
        return []
    found = [(step_of(entry.name), entry) for entry in patiently(lambda: list(os.scandir(directory)))]
    steps = {step: Path(entry.path) for step, entry in found if step is not None and entry.is_dir(follow_symlinks=False)}
    return [steps[step] for step in sorted(steps, reverse=True)]


def staged_folders(directory: Path) -> list[Path]:
    """Folders of saves that did not end."""
    found = (directory / name for name in patiently(lambda: _names(directory)) if _STAGED.fullmatch(name))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder's manifest, and that its files are there with their sizes; their blocks are checked when they are read.

    Raises:
        DamagedError: naming the file and what is wrong with it.
        CheckpointError: it was written by another version.
    """
    path = folder / MANIFEST
    manifest = parse(read_bounded(path, MOST_BYTES), path)
    named = step_of(folder.name)
    if named is not None and named != manifest.step:
        raise damaged(path, f"it is of step {manifest.step}, its folder of step {named}")
    for name, saved in manifest.files.items():
        handle = open_regular(folder / name)
        size = os.fstat(handle).st_size
        os.close(handle)
        if size != saved.size:
            raise damaged(folder / name, f"it has {size} bytes instead of {saved.size}")
    return manifest


def whole_folders(directory: Path) -> Iterator[tuple[Path, Manifest]]:
    """Whole checkpoints, newest first; damaged ones are passed over, each with a warning."""
    for folder in step_folders(directory):
        try:
            manifest = read_manifest(folder)
        except DamagedError as error:
            _log.warning("passing over a damaged checkpoint: %s", error)
            continue
        yield folder, manifest


def read_hint(directory: Path) -> str:
    """The folder name in `latest`.

    Raises:
        DamagedError: there is none, or it does not name a checkpoint folder here.
    """
    path = directory / LATEST
    content = read_bounded(path, MOST_HINT_BYTES)
    try:
        name = content.decode("ascii").removesuffix("\n")
    except UnicodeDecodeError:
        raise damaged(path, "it is not text") from None
    if step_of(name) is None:
        raise damaged(path, f"it says {name!r}, which is no name of a checkpoint folder")
    if (directory / name).is_symlink() or not (directory / name).is_dir():
        raise damaged(path, f"it names {name}, which is not there")
    return name


def write_hint(directory: Path, name: str) -> None:
    """Name the newest folder in `latest`, in one step."""
    staged = directory / f"{LATEST}.tmp"
    staged.unlink(missing_ok=True)
    write_durably(staged, f"{name}\n".encode("ascii"))
    patiently(lambda: os.rename(staged, directory / LATEST))
    sync_directory(directory)


def hint_fault(directory: Path) -> CheckpointError | None:
    """What is wrong with `latest`, if anything."""
    try:
        read_hint(directory)
    except CheckpointError as error:
        return error
    return None


def remove_staged(directory: Path) -> None:
    """Remove what dead saves have left."""
    for folder in staged_folders(directory):
        remove_tree(folder)
    (directory / f"{LATEST}.tmp").unlink(missing_ok=True)


def remove_older(directory: Path, *, keep: int, verified: Path) -> list[Path]:
    """Delete what lies beyond the `keep` newest whole checkpoints.

    Damaged folders are not counted, so they never push a whole one out. Nothing goes unless `verified` is among those that stay.

    Args:
        directory: of the checkpoints.
        keep: how many whole ones stay, at least 1.
        verified: a checkpoint whose every block was read back and found right.

    Returns:
        The folders that were deleted.
    """
    kept: list[Path] = []
    for folder, _ in whole_folders(directory):
        kept.append(folder)
        if len(kept) == keep:
            break
    if len(kept) < keep or verified not in kept:
        return []
    folders = step_folders(directory)
    doomed = folders[folders.index(kept[-1]) + 1 :]
    for folder in doomed:
        _remove(folder)
    return doomed


def discard(directory: Path, folder: Path) -> None:
    """Delete a checkpoint that does not read back as it was written; `latest` names the newest that is left."""
    _remove(folder)
    rest = next(whole_folders(directory), None)
    if rest is None:
        (directory / LATEST).unlink(missing_ok=True)
    else:
        write_hint(directory, rest[0].name)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; without its manifest, the commit mark, a half-deleted folder counts for nothing."""
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_directory(folder)
    remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Delete a folder, whatever is left of it."""

    def remove() -> None:
        if folder.exists():
            shutil.rmtree(folder)

    patiently(remove)
