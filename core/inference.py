"""A trained model without its training engine: for evaluate and generate, from a checkpoint of any layout."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..conf.errors import ConfigError
from ..conf.objective_schema import ObjectiveConfig
from ..conf.schema import LayoutConfig, ModelConfig
from ..parallel.context import ParallelContext
from ..parallel.partition import ShardSpec
from ..parallel.partition_module import placed_buffers, placed_parameters
from ..parallel.stages import Stage
from ..parallel.topology import Topology
from .checkpoint.checkpointer import Checkpointer
from .checkpoint.fragment import Fragment
from .checkpoint.reader import Checkpoint, LoadReport
from .errors import CheckpointError
from .held_parameters import held_parameters
from .inference_layout import inference_problems
from .loss import LossModel
from .model.build import build_model
from .model.transformer import Transformer
from .relay import Pipeline
from .stage_plan import held_stages, placement

Opened = TypeVar("Opened")
Section = TypeVar("Section", ModelConfig, ObjectiveConfig)


@dataclass(frozen=True)
class Trained:
    """This rank's part of a model, in evaluation mode, and the checkpoint it came from.

    Args:
        model: what `evaluate` drives: the whole model, or this rank's stages of it.
        sizes: of the whole model.
        checkpoint: where the parameters came from.
        loaded: what this rank read of it.
        context: this rank's place.
        device: where the parameters lie.
    """

    model: LossModel | Pipeline
    sizes: ModelConfig
    checkpoint: Checkpoint
    loaded: LoadReport
    context: ParallelContext
    device: torch.device

    @property
    def generator(self) -> Transformer | Pipeline:
        """What `generate` drives."""
        return self.model.transformer if isinstance(self.model, LossModel) else self.model

    @property
    def document_mask(self) -> bool:
        """As the model was trained."""
        return bool(_section(self.checkpoint, "data")["document_mask"])

    @property
    def objective(self) -> ObjectiveConfig:
        """As the model was trained; an older checkpoint, and a causal one, do not say it."""
        return _restored(ObjectiveConfig, _section(self.checkpoint, "data").get("objective", {}))

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


def load_trained(path: Path, layout: LayoutConfig, *, device: torch.device) -> Trained:
    """This rank's part of the model of a checkpoint; each rank reads only its own slices. Collective: it makes the groups.

    Args:
        path: a checkpoint folder or a run folder.
        layout: the degrees; what remains of the world size is the data axis.
        device: of this rank.

    Raises:
        CheckpointError: missing or damaged.
        ConfigError: the model does not fit the layout.
    """
    checkpoint = find_checkpoint(path)
    config, world_size = model_config(checkpoint), dist.get_world_size()
    if problems := inference_problems(layout, config, world_size):
        raise ConfigError(problems)
    topology = Topology.divide(world_size=world_size, tp=layout.tp, pp=layout.pp, cp=layout.cp, ep=layout.ep)
    context = ParallelContext.create(topology, dist.get_rank())
    groups = context.layer_groups(context_attention=layout.context_attention.value)
    stages = [build_model(config, seed=0, groups=groups, device=device, stage=stage)
              for stage in held_stages(config, layout, context.coordinate.pp)]
    loaded = checkpoint.load([fragment for stage in stages for fragment in fragments_of(stage)],
                             names={each.name for each in held_parameters(config, [Stage.whole(config.num_layers)])})
    model = LossModel(stages[0]) if layout.pp == 1 else Pipeline(stages, placement(layout), context.pipeline)
    return Trained(model.eval(), config, checkpoint, loaded, context, device)


def fragments_of(model: nn.Module) -> Iterator[Fragment]:
    """Every tensor of a model that a checkpoint holds, to be filled."""
    for each in placed_parameters(model):
        yield Fragment(each.name, "parameter", each.shard, 0, each.parameter.data.view(-1), write=False)
    for name, buffer in placed_buffers(model).items():
        yield Fragment(name, "buffer", ShardSpec.whole(buffer.shape), 0, buffer.view(-1), write=False)


def first_rank_first(action: Callable[[], Opened]) -> Opened:
    """One rank verifies and stamps a corpus; the others then open it in milliseconds."""
    first = dist.get_rank() == 0
    result = action() if first else None
    dist.barrier()
    return result if result is not None else action()


def model_config(checkpoint: Checkpoint) -> ModelConfig:
    """The sizes and switches that the checkpoint was saved with."""
    return _restored(ModelConfig, _section(checkpoint, "model"))


def _restored(kind: type[Section], saved: Mapping[str, Any]) -> Section:
    """A part of a config out of its plain values."""
    values: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in saved:  # a key that came later keeps its default
            hint, value = entry.type, saved[entry.name]
            values[entry.name] = hint(value) if isinstance(hint, type) and issubclass(hint, Enum) else value
    return kind(**values)


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    section = checkpoint.config.get(name)
    if not isinstance(section, dict):
        raise CheckpointError(f"{checkpoint.folder} does not say its {name} section", do="use a checkpoint that Hexareme saved",
                              file=str(checkpoint.folder))
    return section
