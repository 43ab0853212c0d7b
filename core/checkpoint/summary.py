"""What a checkpoint, or the checkpoints of a run, contain: for people and for `output=<file.json>`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .accounting import brief
from .blocks import nothing
from .dtypes import ITEM_SIZES
from .folder import hint_fault, read_hint, step_folders
from .manifest import SavedTensor
from .reader import Checkpoint
from .storage import in_words


def size_of(tensor: SavedTensor) -> int:
    """Bytes of a tensor as saved."""
    return prod(tensor.shape) * ITEM_SIZES[tensor.dtype]


def describe(checkpoint: Checkpoint, pattern: str = "*") -> dict[str, Any]:
    """What a checkpoint says about itself.

    Args:
        checkpoint: its manifest is checked.
        pattern: which tensors are listed, as a shell matches names.
    """
    manifest = checkpoint.manifest
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in manifest.tensors:
        for place, value in enumerate((1, prod(tensor.shape), size_of(tensor))):
            sums[tensor.kind, tensor.dtype][place] += value
    return {
        "checkpoint": str(checkpoint.folder), "step": manifest.step, "samples_seen": manifest.samples_seen,
        "extra": dict(manifest.extra), "config": dict(manifest.config),
        "kinds": [{"kind": kind, "dtype": dtype, "tensors": tensors, "elements": elements, "bytes": size}
                  for (kind, dtype), (tensors, elements, size) in sorted(sums.items(), key=lambda item: item[0][0] != "parameter")],
        "files": {name: {"bytes": file.size, "blocks": len(file.blocks)} for name, file in sorted(manifest.files.items())},
        "tensors": [{"name": tensor.name, "kind": tensor.kind, "dtype": tensor.dtype, "shape": list(tensor.shape), "bytes": size_of(tensor),
                     "slices": len(tensor.slices), "files": sorted({part.file for part in tensor.slices})}
                    for tensor in manifest.tensors if fnmatchcase(tensor.name, pattern)],
    }


def findings(folder: Path, *, blocks: bool, tick: Callable[[int], None] = nothing) -> list[str]:
    """Everything that is wrong with a checkpoint: nothing, if it is whole.

    Args:
        folder: of the checkpoint.
        blocks: also read and check every block; otherwise the manifest, the files and their sizes.
        tick: called after each block, with its bytes.
    """
    found: list[str] = []

    def note(error: CheckpointError) -> None:
        found.append(str(error))

    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError as error:
        return [str(error)]
    try:
        checkpoint.check_listing()
    except CheckpointError as error:
        note(error)
    if blocks:
        checkpoint.verify(tick=tick, on_damage=note)
    return found


def describe_run(run: Path, *, blocks: bool, tick: Callable[[int], None] = nothing) -> dict[str, Any]:
    """The checkpoints of a run, newest first, with what is wrong with each.

    Args:
        run: its folder.
        blocks, tick: as in `findings`.
    """
    directory = run / "checkpoints"
    rows = []
    for folder in step_folders(directory):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file() and not file.is_symlink())
        rows.append({"checkpoint": str(folder), "bytes": size, "findings": findings(folder, blocks=blocks, tick=tick)})
    whole = [row["checkpoint"] for row in rows if not row["findings"]]
    fault = hint_fault(directory) if rows else None
    return {"run": str(run), "newest_whole": whole[0] if whole else None, "latest": None if fault or not rows else read_hint(directory),
            "latest_fault": None if fault is None else str(fault), "checkpoints": rows}


def total_bytes(folders: Sequence[Path]) -> int:
    """What a check of every block reads; of damaged manifests nothing."""
    total = 0
    for folder in folders:
        try:
            total += sum(file.size for file in Checkpoint.open(folder).manifest.files.values())
        except CheckpointError:
            continue
    return total


def lines(described: dict[str, Any]) -> list[str]:
    """A checkpoint's description as text."""
    extra = {name: value for name, value in described["extra"].items() if not isinstance(value, dict | list)}
    nested = {f"{name}.{key}": value for name, inner in described["extra"].items() if isinstance(inner, dict)
              for key, value in inner.items()}
    rows = [f"{described['checkpoint']}: step {described['step']:,}, {described['samples_seen']:,} samples seen"]
    rows += [f"  {name}: {str(value)[:90]}" for name, value in (extra | nested).items()]
    rows += ["", f"{'kind':<14}{'dtype':<12}{'tensors':>9}{'elements':>18}{'bytes':>12}"]
    rows += [f"{each['kind']:<14}{each['dtype']:<12}{each['tensors']:>9,}{each['elements']:>18,}{in_words(each['bytes']):>12}"
             for each in described["kinds"]]
    files = described["files"]
    rows += ["", f"{len(files)} files, {in_words(sum(each['bytes'] for each in files.values()))}"]
    rows += [f"  {name}  {in_words(each['bytes'])} in {each['blocks']} blocks" for name, each in files.items()]
    rows += ["", "configuration that a resume must agree with:"]
    rows += [f"  {key} = {value}" for section, inner in described["config"].items() for key, value in _flat(section, inner)]
    rows += ["", f"{'tensor':<48}{'kind':<14}{'dtype':<10}{'shape':<20}{'bytes':>12}{'slices':>8}  files"]
    rows += [f"{each['name']:<48}{each['kind']:<14}{each['dtype']:<10}{str(each['shape']):<20}{in_words(each['bytes']):>12}"
             f"{each['slices']:>8}  {brief(each['files'])}" for each in described["tensors"]]
    return rows


def run_lines(described: dict[str, Any]) -> list[str]:
    """The description of a run's checkpoints as text."""
    rows = [f"{described['run']}: {len(described['checkpoints'])} checkpoints, newest whole: {described['newest_whole'] or 'none'}"]
    for each in described["checkpoints"]:
        state = "; ".join(each["findings"]) or "whole"
        rows.append(f"  {Path(each['checkpoint']).name}  {in_words(each['bytes']):>10}  {state}")
    if described["latest_fault"]:
        rows.append(f"  latest: {described['latest_fault']}")
    return rows


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(key, value)]
    return [pair for name, inner in value.items() for pair in _flat(f"{key}.{name}", inner)]
