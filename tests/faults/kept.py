"""The kept checkpoint of format version 1 (tests/fixtures), as a run folder that tests may damage; all that it holds as live tensors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.folder import read_manifest
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.manifest import Manifest, parse, render
from hexareme.core.checkpoint.reader import Checkpoint, LoadReport
from hexareme.parallel.partition import ShardSpec

KEPT = Path(__file__).resolve().parents[1] / "fixtures" / "checkpoint-v1"
NEWEST, OLDER = "step-00000004", "step-00000002"
UNTOUCHED = 77.0


def expected() -> dict[str, Any]:
    """What the kept checkpoint held when it was written."""
    return json.loads((KEPT / "expected.json").read_text())


def copy_kept(run: Path) -> Path:
    """`checkpoints/` of a run with the kept checkpoint, and the same one as of an older step."""
    directory = run / "checkpoints"
    shutil.copytree(KEPT / NEWEST, directory / NEWEST)
    shutil.copytree(KEPT / NEWEST, directory / OLDER)
    rewrite(directory / OLDER, step=2, samples_seen=8)
    (directory / "latest").write_text(f"{NEWEST}\n")
    return directory


def rewrite(folder: Path, **fields: Any) -> Manifest:
    """Another manifest for a folder, sealed as ours are: what a hostile hand could write."""
    path = folder / "manifest.json"
    manifest = replace(parse(path.read_bytes(), path), **fields)
    path.write_bytes(render(manifest))
    return manifest


def blank() -> list[Fragment]:
    """Live tensors for everything that the kept checkpoint holds."""
    return [Fragment(each.name, each.kind, ShardSpec.whole(each.shape), 0, torch.full(each.shape, UNTOUCHED).view(-1))
            for each in read_manifest(KEPT / NEWEST).tensors]


def load(directory: Path, *, must: bool) -> tuple[Checkpoint, LoadReport]:
    """As a run of one rank loads."""
    checkpointer = Checkpointer(directory, keep=2, rank=0, world_size=1, agree=bool)
    found = checkpointer.load_newest(blank(), must=must)
    assert found is not None
    return found
