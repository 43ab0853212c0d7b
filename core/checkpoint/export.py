"""Writes the plain weights of a checkpoint as safetensors files, block by block: the whole is never in memory.

Format of the files: github.com/huggingface/safetensors; of the index of several: Hugging Face's `model.safetensors.index.json`.
"""

import json
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import yaml

from ..errors import CheckpointError, StorageError
from .blocks import Block, BlockReaders, nothing
from .dtypes import ITEM_SIZES, SAFETENSORS_NAMES
from .manifest import SavedTensor
from .pieces import Piece, pieces
from .reader import Checkpoint
from .slices import runs
from .storage import free_bytes, in_words, storage_error, sync_directory

INDEX, CONFIG, SINGLE = "model.safetensors.index.json", "config.yaml", "model.safetensors"
KINDS = ("parameter", "buffer")


@dataclass(frozen=True)
class Shard:
    """One file of an export.

    Args:
        name: of the file.
        tensors: in it, in order.
        dtypes: element type of each.
    """

    name: str
    tensors: Sequence[SavedTensor]
    dtypes: Sequence[str]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(map(_bytes, self.tensors, self.dtypes))

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """Length and JSON of a safetensors file, padded so that the data are aligned."""
        fields: dict[str, object] = {"__metadata__": dict(metadata)}
        offset = 0
        for tensor, dtype in zip(self.tensors, self.dtypes, strict=True):
            end = offset + _bytes(tensor, dtype)
            fields[tensor.name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": tensor.shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        files: of weights, in order.
        tensors: how many.
        bytes: of weights.
    """

    files: Sequence[Path]
    tensors: int
    bytes: int


def export(checkpoint: Checkpoint, output: Path, *, shard_bytes: int, dtype: str | None = None,
           tick: Callable[[int], None] = nothing) -> Exported:
    """Write parameters and buffers, under their own names, as one file or several; committed by one rename, or not there at all.

    Args:
        checkpoint: any layout wrote it.
        output: a new folder, or a new file `*.safetensors`; then all weights go into it, whatever their size.
        shard_bytes: most bytes of one file of a folder; a larger tensor has a file of its own.
        dtype: torch's name of a floating-point type to convert to; None: as saved.
        tick: called after each block that was read, with its bytes.

    Raises:
        CheckpointError: a block fails its checksum, or does not fit into `dtype`; nothing is written under the final name.
        StorageError: the output exists, or its disk is full or fails.
    """
    if os.path.lexists(output):
        raise StorageError(f"{output} exists", do="choose another output, or remove it first", file=str(output))
    checkpoint.check_listing()
    alone = output.suffix == ".safetensors"
    shards = _shards(checkpoint, shard_bytes, dtype, alone=alone)
    size = sum(shard.size for shard in shards)
    metadata = {"format": "pt", "source": f"hexareme step {checkpoint.step}"}
    staged = output.parent / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if size > free_bytes(output.parent):
            raise StorageError(f"{output} needs {in_words(size)}, {in_words(free_bytes(output.parent))} are free",
                               do="free space, or choose another output", file=str(output))
        staged.mkdir()
        for shard in shards:
            _write_shard(checkpoint, staged / shard.name, shard, shard.header(metadata), tick)
        _write_text(staged / CONFIG, yaml.safe_dump({"step": checkpoint.step, "samples_seen": checkpoint.samples_seen,
                                                     **json.loads(json.dumps(checkpoint.config))}, sort_keys=False))
        if len(shards) > 1:
            _write_text(staged / INDEX, _index(shards, size))
        sync_directory(staged)
        _commit(staged, output, alone=alone)
    except OSError as error:
        raise storage_error(error, output, need=size) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    files = [output] if alone else [output / shard.name for shard in shards]
    return Exported(files, sum(len(shard.tensors) for shard in shards), size)


def _commit(staged: Path, output: Path, *, alone: bool) -> None:
    if alone:  # the config first: whoever sees the weights finds it beside them
        os.replace(staged / CONFIG, output.with_suffix(f".{CONFIG}"))
        os.rename(staged / SINGLE, output)
    else:
        os.rename(staged, output)
    sync_directory(output.parent)


def _shards(checkpoint: Checkpoint, shard_bytes: int, dtype: str | None, *, alone: bool) -> list[Shard]:
    groups: list[list[SavedTensor]] = [[]]
    held = 0
    for tensor in (tensor for tensor in checkpoint.manifest.tensors if tensor.kind in KINDS):
        size = _bytes(tensor, _dtype(tensor, dtype))
        if groups[-1] and held + size > shard_bytes and not alone:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += size
    names = [SINGLE] if len(groups) == 1 else [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    return [Shard(name, group, [_dtype(tensor, dtype) for tensor in group]) for name, group in zip(names, groups, strict=True)]


def _dtype(tensor: SavedTensor, wanted: str | None) -> str:
    return wanted if wanted and "float" in tensor.dtype else tensor.dtype


def _bytes(tensor: SavedTensor, dtype: str) -> int:
    return prod(tensor.shape) * ITEM_SIZES[dtype]


def _index(shards: Sequence[Shard], size: int) -> str:
    places = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    return json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2) + "\n"


def _write_text(path: Path, content: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_shard(checkpoint: Checkpoint, path: Path, shard: Shard, header: bytes, tick: Callable[[int], None]) -> None:
    """One file: its tensors are put together from the slices of all source files, each block of which is read once."""
    by_block: dict[Block, list[tuple[Piece, str, int]]] = defaultdict(list)
    offset = len(header)
    for tensor, dtype in zip(shard.tensors, shard.dtypes, strict=True):
        for part in tensor.slices:
            for block, piece in pieces(tensor, part, part.box):
                by_block[block].append((piece, dtype, offset))
        offset += _bytes(tensor, dtype)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.truncate(handle, offset)
        _write_at(handle, memoryview(header), 0)

        def use(block: Block, content: memoryview) -> None:
            for piece, dtype, base in by_block[block]:
                elements = _converted(piece.elements(content, checkpoint.folder / block.file), dtype, checkpoint.folder, piece)
                for chunk, position in _placed(elements, piece, dtype, base):
                    _write_at(handle, chunk, position)

        BlockReaders(checkpoint.folder, checkpoint.manifest.files, use).run(sorted(by_block), tick=tick)
        os.fsync(handle)
    finally:
        os.close(handle)


def _converted(elements: torch.Tensor, dtype: str, folder: Path, piece: Piece) -> torch.Tensor:
    found = elements.to(getattr(torch, dtype))
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise CheckpointError(f"{piece.saved.name} holds numbers that {dtype} cannot", do="choose dtype=bfloat16 or dtype=float32",
                              file=str(folder))
    return found


def _placed(elements: torch.Tensor, piece: Piece, dtype: str, base: int) -> Iterator[tuple[memoryview, int]]:
    """The bytes of a piece, run by run, each with its place in the file."""
    size = ITEM_SIZES[dtype]
    flat = elements.contiguous().reshape(-1).view(torch.uint8).numpy().data
    for first, start, count in runs(piece.box, piece.saved.shape):
        yield flat[start * size : (start + count) * size], base + first * size


def _write_at(handle: int, content: memoryview, position: int) -> None:
    while content:
        written = os.pwrite(handle, content, position)
        content, position = content[written:], position + written
