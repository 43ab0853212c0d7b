"""Initial weights, drawn by parameter name and coordinate, so that every layout starts from the same model."""

from math import sqrt

import torch
from torch import nn

from ...conf.schema import ModelConfig
from ...parallel.partition_module import placed_parameters
from ...parallel.random import fill_normal

_RESIDUAL_OUTPUTS = ("attention.output.weight", "mlp.down.weight", "mlp.shared.down.weight", "mlp.experts.down.weight")


def initialize(model: nn.Module, config: ModelConfig, *, seed: int) -> None:
    """Fill every parameter of this rank in place: normal(0, initializer_std), norms 1, biases 0.

    Residual outputs are scaled by 1 / sqrt(2 num_layers), so that the residual stream does not grow with depth (GPT-2, Radford et al.
    2019, section 2.3).

    Args:
        model: a transformer, or a part of one whose parameters have their full names.
        config: initializer_std, num_layers.
        seed: of the draw.
    """
    with torch.no_grad():
        for placed in placed_parameters(model):
            name, parameter = placed.name, placed.parameter
            if name.endswith(".bias"):
                parameter.zero_()
            elif name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                std = config.initializer_std / (sqrt(2 * config.num_layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0)
                fill_normal(parameter, placed.shard, seed=seed, name=name, std=std)
