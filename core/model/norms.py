"""Normalisation before each part of a block; statistics in fp32, since the residual stream is fp32 under autocast."""

from torch import nn

from ...conf.schema import ModelConfig, Normalization


def build_norm(config: ModelConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016) with weight and bias, or RMSNorm (Zhang and Sennrich 2019) with a weight."""
    if config.normalization == Normalization.layernorm:
        return nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
    return nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
