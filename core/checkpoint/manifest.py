"""`manifest.json`: what a checkpoint holds and the checksums that prove it. Pure; reads hostile files without harm.

The file is one line of compact ASCII JSON with sorted keys, and `sha256` as the last key: the SHA-256 of the same line without that
key. It is checked over the bytes before anything is parsed, so no changed bit survives, not even one that JSON would not notice.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .dtypes import ITEM_SIZES
from .slices import Box, tiling_fault
from .strict_json import Fields, damaged, parse_object

VERSION = 1
BLOCK_BYTES = 16 * 2**20
MANIFEST = "manifest.json"
MOST_BYTES = 256 * 2**20  # of a manifest: a 70B model on 1,000 ranks needs some 20 MB
DATA_FILE = re.compile(r"rank-[0-9]{5,9}\.safetensors")
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_SEAL_BYTES = len(',"sha256":""}\n') + 64
_BLOCK_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class SavedSlice:
    """One box of a tensor: row-major at byte `offset` of `file`."""

    file: str
    offset: int
    box: Box


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor of a checkpoint; its slices cover it exactly once."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    slices: tuple[SavedSlice, ...]


@dataclass(frozen=True, slots=True)
class SavedFile:
    """Size in bytes, and the XXH3-128 of each block of 16 MiB (the last one may be shorter)."""

    size: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a checkpoint says about itself. `config` must agree with the run that loads it; `extra` is the engine's own."""

    step: int
    samples_seen: int
    config: Mapping[str, Any]
    extra: Mapping[str, Any]
    tensors: tuple[SavedTensor, ...]
    files: Mapping[str, SavedFile]


def compact(value: Any) -> str:
    """The canonical JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sealed(fields: Mapping[str, Any]) -> bytes:
    """One line of canonical JSON that carries its own SHA-256.

    Raises:
        ValueError, TypeError: a field holds what JSON cannot say.
    """
    body = compact(fields).encode("ascii")
    return body[:-1] + f',"sha256":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode("ascii")


def render(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`."""
    return sealed(
        {
            "version": VERSION,
            "step": manifest.step,
            "samples_seen": manifest.samples_seen,
            "config": manifest.config,
            "extra": manifest.extra,
            "tensors": [tensor_fields(tensor) for tensor in manifest.tensors],
            "files": files_fields(manifest.files),
        }
    )


def tensor_fields(tensor: SavedTensor) -> dict[str, Any]:
    """A tensor as JSON fields."""
    slices = [{"file": s.file, "offset": s.offset, "starts": s.box.starts, "shape": s.box.shape} for s in tensor.slices]
    return {"name": tensor.name, "kind": tensor.kind, "dtype": tensor.dtype, "shape": tensor.shape, "slices": slices}


def files_fields(files: Mapping[str, SavedFile]) -> dict[str, Any]:
    """The table of files as JSON fields."""
    return {name: {"size": file.size, "blocks": file.blocks} for name, file in files.items()}


def parse(content: bytes, path: Path) -> Manifest:
    """Check and read the bytes of a `manifest.json`.

    Args:
        content: the whole file.
        path: where it was read, for messages.

    Raises:
        DamagedError: the bytes are not the ones that were written.
        CheckpointError: it was written by another version.
    """
    fields = Fields(unsealed(content, path), path)
    version = fields.integer("version")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this Hexareme reads version {VERSION}",
            do="load it with the Hexareme that wrote it, or upgrade",
            file=str(path),
        )
    files = read_files(fields)
    tensors = read_tensors(fields, files)
    manifest = Manifest(
        step=fields.integer("step"),
        samples_seen=fields.integer("samples_seen"),
        config=fields.mapping("config"),
        extra=fields.mapping("extra"),
        tensors=tensors,
        files=files,
    )
    fault = fault_of(manifest.tensors)
    if fault:
        raise damaged(path, fault)
    return manifest


def unsealed(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in a sealed file, its seal checked first."""
    seal = _SEAL.fullmatch(content[-_SEAL_BYTES:])
    body = content[:-_SEAL_BYTES] + b"}"
    if not seal or hashlib.sha256(body).hexdigest().encode() != seal[1]:
        raise damaged(path, "its SHA-256 does not match its content")
    return parse_object(body, path)


def read_files(fields: Fields) -> dict[str, SavedFile]:
    """The table of files of a manifest or a part list."""
    files = {}
    for name, values in fields.mapping("files").items():
        entry = Fields(values, fields.path)
        size, blocks = entry.integer("size"), entry.items("blocks")
        if not DATA_FILE.fullmatch(name):
            raise damaged(fields.path, f"{name[:80]!r} is no name of a data file")
        if len(blocks) != -(-size // BLOCK_BYTES) or not all(isinstance(b, str) and _BLOCK_HASH.fullmatch(b) for b in blocks):
            raise damaged(fields.path, f"the block checksums of {name} do not fit its size {size}")
        files[name] = SavedFile(size, tuple(blocks))
    return files


def read_tensors(fields: Fields, files: Mapping[str, SavedFile]) -> tuple[SavedTensor, ...]:
    """The tensors of a manifest or a part list; each slice lies inside a listed file."""
    return tuple(_read_tensor(Fields(values, fields.path), files) for values in fields.items("tensors"))


def _read_tensor(entry: Fields, files: Mapping[str, SavedFile]) -> SavedTensor:
    name, kind, dtype = entry.text("name"), entry.text("kind"), entry.text("dtype")
    shape = entry.integers("shape")
    if dtype not in ITEM_SIZES:
        raise damaged(entry.path, f"tensor {name} has dtype {dtype[:80]!r}, not one of {', '.join(ITEM_SIZES)}")
    if 0 in shape:
        raise damaged(entry.path, f"tensor {name} of shape {list(shape)} has no element")
    slices = []
    for values in entry.items("slices"):
        part = Fields(values, entry.path)
        file, offset = part.text("file"), part.integer("offset")
        box = Box(part.integers("starts"), part.integers("shape"))
        if file not in files:
            raise damaged(entry.path, f"tensor {name} lies in {file[:80]!r}, which is not among the files")
        if offset % ITEM_SIZES[dtype] or offset + box.size * ITEM_SIZES[dtype] > files[file].size:
            raise damaged(entry.path, f"a slice of tensor {name} at byte {offset} does not fit into {file} of {files[file].size} bytes")
        slices.append(SavedSlice(file, offset, box))
    return SavedTensor(name, kind, dtype, shape, tuple(slices))


def fault_of(tensors: Iterable[SavedTensor]) -> str | None:
    """What no single field shows: whether every tensor stands once, is covered exactly once, and shares no bytes with another."""
    seen: set[tuple[str, str]] = set()
    spans = []
    for tensor in tensors:
        if (tensor.name, tensor.kind) in seen:
            return f"tensor {tensor.name} ({tensor.kind}) stands twice"
        seen.add((tensor.name, tensor.kind))
        fault = tiling_fault(tensor.shape, [part.box for part in tensor.slices])
        if fault:
            return f"tensor {tensor.name} ({tensor.kind}) is not covered exactly once: {fault}"
        size = ITEM_SIZES[tensor.dtype]
        spans += [(part.file, part.offset, part.offset + part.box.size * size, tensor.name) for part in tensor.slices]
    for (file, _, end, name), (next_file, start, _, next_name) in pairwise(sorted(spans)):
        if file == next_file and start < end:
            return f"tensors {name} and {next_name} share bytes of {file}"
    return None
