"""From a ModelConfig to a model that is ready to train."""

import torch
import torch.distributed as dist

from ...conf.schema import ModelConfig
from .initialization import initialize
from .transformer import Transformer


def build_model(config: ModelConfig, *, seed: int, group: dist.ProcessGroup, device: torch.device | str,
                recompute: str = "none") -> Transformer:
    """This rank's shard of the initial model.

    Args:
        config: sizes and switches.
        seed: of weights and dropout; the same seed gives the same model on every layout.
        group: the tensor axis.
        device: where the parameters lie; `meta` for counting only.
        recompute: train.recompute.

    Raises:
        ValueError: sizes that do not fit each other or the group.
    """
    with torch.device(device):
        model = Transformer(config, group, seed=seed, recompute=recompute)
    initialize(model, config, seed=seed)
    return model


def compile_blocks(model: Transformer) -> None:
    """`torch.compile` each block in place: all blocks are alike, so one compilation serves all, and names stay."""
    for block in model.blocks:
        block.compile()
