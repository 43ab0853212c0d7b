"""The three acts of a save: rank 0 makes a folder aside, every rank writes its part into it, rank 0 commits the whole.

Pure: imports no torch, for the worker of an asynchronous save does the last two.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .finite import FloatSpan
from .folder import folder_name, remove_staged, staged_folders, write_hint
from .manifest import MANIFEST, Manifest, SavedFile, SavedTensor, render
from .parts import Part, data_name, merge, part_path, read_part, write_part
from .ranks import not_shared
from .storage import check_free, patiently, put_in_place, storage_error, sync_directory, write_durably
from .stream import BlockSource, write_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFile:
    """What one rank writes, without the bytes.

    Args:
        rank: whose.
        step, samples_seen: progress.
        size: bytes of the file; 0: this rank writes none.
        tensors: what lies in it.
        floats: where its floating-point elements lie.
    """

    rank: int
    step: int
    samples_seen: int
    size: int
    tensors: tuple[SavedTensor, ...]
    floats: Sequence[FloatSpan]


def stage(directory: Path, step: int, *, need: int) -> None:
    """Clear away what dead saves have left, and make the folder that this one writes into.

    Args:
        directory: of the checkpoints.
        step: to be saved.
        need: bytes that all ranks will write, about.

    Raises:
        StorageError: the disk has no room for it.
    """
    patiently(lambda: directory.mkdir(parents=True, exist_ok=True))
    remove_staged(directory)
    check_free(directory, need)
    patiently((directory / f".{folder_name(step)}.{secrets.token_hex(4)}.tmp").mkdir)


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


def write(staged: Path, file: RankFile, source: BlockSource, tick: Callable[[], None]) -> dict[str, SavedFile]:
    """Write this rank's file, and list what lies in it.

    Args:
        staged: the folder of this save.
        file: what is written.
        source: its bytes.
        tick: told of each block.

    Returns:
        Its name, size and checksums; empty where this rank writes none.

    Raises:
        StorageError: the disk is full or fails.
        NonFiniteError: an element is NaN or infinite.
    """
    path = staged / data_name(file.rank)
    files: dict[str, SavedFile] = {}
    try:
        if file.size:
            files[path.name] = write_stream(path, file.size, source, file.floats, tick)
        write_part(staged, file.rank, Part(file.step, file.samples_seen, file.tensors, files))
    except OSError as error:
        failure = storage_error(error, path, need=file.size)
        path.unlink(missing_ok=True)  # makes room for a word to the other ranks
        raise failure from error
    return files


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
