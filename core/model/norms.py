"""Normalisation before each part of a block; statistics in fp32, since the residual stream is fp32 under autocast.

It works on the residual stream, so under sequence parallelism on this rank's shard of the sequence.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ...conf.schema import ModelConfig, Normalization
from ...parallel.collectives import residual_parameter, residual_parameters
from ...parallel.context import LayerGroups


class LayerNorm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016) with weight and bias.

    Args:
        config: hidden_size, norm_epsilon.
        groups: the axes.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups) -> None:
        super().__init__(config.hidden_size, eps=config.norm_epsilon)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream -> the same shape."""
        weight_H, bias_H = residual_parameters(self.weight, self.bias, group=self.groups.tensor,
                                               sequence_parallel=self.groups.sequence_parallel)
        return F.layer_norm(x, self.normalized_shape, weight_H, bias_H, self.eps)


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019) with a weight.

    Args:
        config: hidden_size, norm_epsilon.
        groups: the axes.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups) -> None:
        super().__init__(config.hidden_size, eps=config.norm_epsilon)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream -> the same shape."""
        weight_H = residual_parameter(self.weight, self.groups.tensor, sequence_parallel=self.groups.sequence_parallel)
        return F.rms_norm(x, self.normalized_shape, weight_H, self.eps)


def build_norm(config: ModelConfig, *, groups: LayerGroups) -> nn.Module:
    """The norm that `model.normalization` names."""
    return (LayerNorm if config.normalization == Normalization.layernorm else RMSNorm)(config, groups=groups)
