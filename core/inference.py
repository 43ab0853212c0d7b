"""A trained model without its training engine: for evaluate and generate, from a checkpoint of any layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..conf.schema import ModelConfig
from ..parallel.context import LayerGroups
from ..parallel.partition import ShardSpec
from ..parallel.partition_module import placed_buffers, placed_parameters
from .checkpoint.checkpointer import Checkpointer
from .checkpoint.fragment import Fragment
from .checkpoint.reader import Checkpoint
from .errors import CheckpointError
from .loss import LossModel
from .model.build import build_model


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, and the checkpoint it came from."""

    model: LossModel
    checkpoint: Checkpoint
    device: torch.device

    @property
    def document_mask(self) -> bool:
        """As the model was trained."""
        return bool(_section(self.checkpoint, "data")["document_mask"])

    @property
    def corpus(self) -> str:
        """The first corpus it was trained on."""
        return str(_section(self.checkpoint, "data")["train"][0]["path"])


def find_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a checkpoint folder, or the newest whole one of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "checkpoints").is_dir():
        found = Checkpointer(path / "checkpoints", keep=1, rank=0, world_size=1, agree=bool).newest()
        if found is not None:
            return found
    elif (path / "manifest.json").is_file():
        return Checkpoint.open(path)
    raise CheckpointError(f"{path} holds no whole checkpoint", do="name a run folder or one of its checkpoints/step-* folders",
                          file=str(path))


@contextmanager
def alone() -> Iterator[LayerGroups]:
    """A process group of this one process, without a port."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        yield LayerGroups.of_tensor_axis(dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def load_trained(path: Path, *, groups: LayerGroups) -> Trained:
    """The model of a checkpoint, on the GPU where there is one.

    Args:
        path: a checkpoint folder or a run folder.
        groups: the axes.

    Raises:
        CheckpointError: missing or damaged.
    """
    checkpoint = find_checkpoint(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transformer = build_model(model_config(checkpoint), seed=0, groups=groups, device=device)
    state = [Fragment(each.name, "parameter", each.shard, 0, each.parameter.data.view(-1), write=False)
             for each in placed_parameters(transformer)]
    state += [Fragment(name, "buffer", ShardSpec.whole(buffer.shape), 0, buffer.view(-1), write=False)
              for name, buffer in placed_buffers(transformer).items()]
    checkpoint.load(state)
    return Trained(LossModel(transformer).eval(), checkpoint, device)


def model_config(checkpoint: Checkpoint) -> ModelConfig:
    """The sizes and switches that the checkpoint was saved with."""
    saved = _section(checkpoint, "model")
    values: dict[str, Any] = {}
    for entry in fields(ModelConfig):
        if entry.name in saved:  # a key that came later keeps its default
            kind, value = entry.type, saved[entry.name]
            values[entry.name] = kind(value) if isinstance(kind, type) and issubclass(kind, Enum) else value
    return ModelConfig(**values)


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    section = checkpoint.config.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"{checkpoint.folder} does not say its {name} section", do="use a checkpoint that Hexareme saved",
                              file=str(checkpoint.folder))
    return section
