"""The three acts of a save: rank 0 makes a folder aside, every rank writes its part into it, rank 0 commits the whole."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, StorageError
from .blocks import verify_file
from .folder import folder_name, remove_staged, staged_folders, write_hint
from .manifest import MANIFEST, Manifest, SavedFile, SavedTensor, render
from .parts import Part, data_name, merge, part_path, read_part, write_part
from .ranks import not_shared
from .storage import put_in_place, storage_error, sync_directory, write_durably
from .strict_json import DamagedError
from .writer import Entry, write_rank_file


def stage(directory: Path, step: int) -> None:
    """Clear away what dead saves have left, and make the folder that this one writes into."""
    directory.mkdir(parents=True, exist_ok=True)
    remove_staged(directory)
    (directory / f".{folder_name(step)}.{secrets.token_hex(4)}.tmp").mkdir()


def staged_folder(directory: Path, step: int, rank: int) -> Path:
    """The folder that this save writes into, as this rank sees it.

    Raises:
        CheckpointError: there is none, or it is for another step.
    """
    found = staged_folders(directory)
    if not found:
        raise not_shared(directory, f"rank {rank} does not see the folder that rank 0 has made")
    if not found[0].name.startswith(f".{folder_name(step)}."):
        raise CheckpointError(
            f"rank {rank} saves step {step}, rank 0 saves {found[0].name.split('.')[1]}",
            do="report this: the ranks no longer do the same",
        )
    return found[0]


def write(staged: Path, rank: int, entries: list[Entry], *, step: int, samples_seen: int) -> None:
    """Write this rank's file, read it back, and list what lies in it.

    Raises:
        StorageError: the disk is full or fails.
    """
    tensors: list[SavedTensor] = []
    files: dict[str, SavedFile] = {}
    path = staged / data_name(rank)
    try:
        if entries:
            tensors, files[path.name] = write_rank_file(path, entries)
            verify_file(path, files[path.name])
        write_part(staged, rank, Part(step, samples_seen, tuple(tensors), files))
    except OSError as error:
        failure = storage_error(error, path, need=sum(entry.size for entry in entries))
        path.unlink(missing_ok=True)  # makes room for a word to the other ranks
        raise failure from error
    except DamagedError as error:
        what = f"the disk does not return what was written: {error}"
        raise StorageError(what, do="see dmesg, replace the disk", file=str(path)) from error


def commit(staged: Path, world_size: int, *, step: int, config: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Join the ranks' parts, check the whole, and give it its name.

    Every file is on disk before the manifest is, the manifest and the folder before the name, the name before `latest`.

    Raises:
        CheckpointError: the parts do not make a whole.
        OSError: the disk is full or fails.
    """
    directory = staged.parent
    parts = [read_part(staged, rank) for rank in range(world_size)]
    tensors, files = merge(parts)
    content = render(Manifest(step, parts[0].samples_seen, config, extra, tensors, files))
    for rank in range(world_size):
        part_path(staged, rank).unlink()
    write_durably(staged / MANIFEST, content)
    sync_directory(staged)
    put_in_place(staged, directory / folder_name(step))
    write_hint(directory, folder_name(step))
