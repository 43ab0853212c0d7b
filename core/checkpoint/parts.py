"""What the ranks of a save tell each other through its folder: part lists, and failures. Pure."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, FolderInUseError, NonFiniteError, RunError, StorageError
from .manifest import MOST_BYTES, SavedFile, SavedTensor, fault_of, files_fields, read_files, read_tensors, sealed, tensor_fields, unsealed
from .storage import patiently, read_bounded
from .strict_json import DamagedError, Fields

_ERRORS: dict[str, type[RunError]] = {
    each.__name__: each for each in (StorageError, CheckpointError, NonFiniteError, FolderInUseError)
}
MOST_NOTE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank has written."""

    step: int
    samples_seen: int
    tensors: tuple[SavedTensor, ...]
    files: dict[str, SavedFile]


def data_name(rank: int) -> str:
    """Name of a rank's data file."""
    return f"rank-{rank:05d}.safetensors"


def part_path(staged: Path, rank: int) -> Path:
    """Where a rank lists what it has written."""
    return staged / f"part-{rank:05d}.json"


def write_part(staged: Path, rank: int, part: Part) -> None:
    """List what a rank has written, in one step: rank 0 may be waiting for it. Not synced: it is deleted before the commit."""
    fields = {
        "step": part.step,
        "samples_seen": part.samples_seen,
        "tensors": [tensor_fields(tensor) for tensor in part.tensors],
        "files": files_fields(part.files),
    }
    aside = staged / f".part-{rank:05d}.json"
    aside.write_bytes(sealed(fields))
    patiently(lambda: os.rename(aside, part_path(staged, rank)))


def read_part(staged: Path, rank: int) -> Part:
    """Read a rank's list.

    Raises:
        CheckpointError: it is not there, or not as it was written.
    """
    path = part_path(staged, rank)
    try:
        fields = Fields(unsealed(read_bounded(path, MOST_BYTES), path), path)
    except DamagedError as error:
        raise CheckpointError(
            f"rank 0 cannot read what rank {rank} has written: {error}",
            do="put run.directory on a file system that all nodes share",
            file=str(path),
        ) from error
    files = read_files(fields)
    return Part(fields.integer("step"), fields.integer("samples_seen"), read_tensors(fields, files), files)


def merge(parts: Sequence[Part]) -> tuple[tuple[SavedTensor, ...], dict[str, SavedFile]]:
    """Put the parts of all ranks together.

    Args:
        parts: in the order of ranks.

    Returns:
        All tensors with all their slices, and all files.

    Raises:
        CheckpointError: the ranks disagree, or a tensor is not covered exactly once.
    """
    merged: dict[tuple[str, str], SavedTensor] = {}
    for rank, part in enumerate(parts):
        for field in ("step", "samples_seen"):
            ours, theirs = getattr(parts[0], field), getattr(part, field)
            if ours != theirs:
                raise _inconsistent(f"rank 0 saves {field} {ours}, rank {rank} saves {theirs}")
        for tensor in part.tensors:
            key = tensor.name, tensor.kind
            so_far = merged.get(key, SavedTensor(*key, tensor.dtype, tensor.shape, ()))
            if (so_far.dtype, so_far.shape) != (tensor.dtype, tensor.shape):
                before, now = f"{so_far.dtype} {list(so_far.shape)}", f"{tensor.dtype} {list(tensor.shape)}"
                raise _inconsistent(f"{tensor.name} ({tensor.kind}) is {now} on rank {rank} and {before} on another")
            merged[key] = SavedTensor(*key, tensor.dtype, tensor.shape, so_far.slices + tensor.slices)
    tensors = tuple(merged.values())
    fault = fault_of(tensors)
    if fault:
        raise _inconsistent(fault)
    return tensors, {name: file for part in parts for name, file in part.files.items()}


def _inconsistent(what: str) -> CheckpointError:
    return CheckpointError(f"the ranks' parts do not make one checkpoint: {what}", do="report this: the ranks no longer do the same")


def failure_fields(rank: int, error: Exception) -> dict[str, str]:
    """A rank's failure, as another process is told of it."""
    told = isinstance(error, RunError)
    return {
        "kind": next((name for name, known in _ERRORS.items() if isinstance(error, known)), "CheckpointError"),
        "message": f"rank {rank}: {error}" if told else f"rank {rank}: {type(error).__name__}: {error}",
        "do": error.do if isinstance(error, RunError) else "see the traceback in that rank's log",
        "file": (error.file or "") if isinstance(error, RunError) else "",
    }


def failure_of(fields: Mapping[str, Any]) -> RunError:
    """The inverse of `failure_fields`."""
    values = {key: str(fields.get(key, "")) for key in ("kind", "message", "do", "file")}
    return _ERRORS.get(values["kind"], CheckpointError)(values["message"], do=values["do"], file=values["file"] or None)


def note_failure(staged: Path, rank: int, error: Exception) -> None:
    """Leave word of a failure for the other ranks. Where the disk takes not even that, they know only that there was one."""
    try:
        (staged / f"failure-{rank:05d}.json").write_bytes(sealed(failure_fields(rank, error)))
    except OSError:
        return  # the error itself is raised on this rank; the others say that they were not told


def noted_failure(staged: Path) -> RunError | None:
    """The failure of the lowest rank that left word."""
    for path in sorted(staged.glob("failure-*.json")):
        try:
            fields = Fields(unsealed(read_bounded(path, MOST_NOTE_BYTES), path), path)
        except DamagedError:
            continue  # cut short by a full disk
        return failure_of(fields.values)
    return None
