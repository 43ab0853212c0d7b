"""From a ModelConfig to a model that is ready to train."""

import torch

from ...conf.schema import ModelConfig
from ...parallel.context import LayerGroups
from ...parallel.stages import Stage
from .initialization import initialize
from .transformer import Transformer


def build_model(config: ModelConfig, *, seed: int, groups: LayerGroups, device: torch.device | str, recompute: str = "none",
                stage: Stage | None = None) -> Transformer:
    """This rank's shard of the initial model.

    Args:
        config: sizes and switches.
        seed: of weights and dropout; the same seed gives the same model on every layout.
        groups: the axes.
        device: where the parameters lie; `meta` for counting only.
        recompute: train.recompute.
        stage: the slice of the model to build; None: all of it.

    Raises:
        ValueError: sizes that do not fit each other or the group.
    """
    with torch.device(device):
        model = Transformer(config, groups, seed=seed, recompute=recompute, stage=stage)
    initialize(model, config, seed=seed)
    return model


def compile_blocks(model: Transformer) -> None:
    """`torch.compile` each block in place: all blocks are alike, so one compilation serves all, and names stay."""
    for block in model.blocks.values():
        block.compile()
