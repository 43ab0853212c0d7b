"""One transformer block: norm before each part, residual around it (Xiong et al. 2020, "pre-LN")."""

from torch import Tensor, nn

from ...conf.schema import ModelConfig
from ...parallel.context import LayerGroups
from ...parallel.random import stream_key
from ..expert_rules import has_experts
from .attention import Attention
from .dropout import Dropout
from .experts import MixtureOfExperts
from .input import Shared
from .mlp import MLP
from .norms import build_norm


class Block(nn.Module):
    """Attention and MLP, each with norm, dropout and residual.

    Args:
        config: sizes and switches.
        layer: number of the block, from 0 over the whole model.
        groups: the axes.
        seed: of dropout.
    """

    def __init__(self, config: ModelConfig, *, layer: int, groups: LayerGroups, seed: int) -> None:
        super().__init__()
        self.attention_norm = build_norm(config, groups=groups)
        self.attention = Attention(config, layer=layer, groups=groups, seed=seed)
        self.attention_dropout = Dropout(config.dropout, site_key=stream_key(seed, "dropout", layer, "attention"))
        self.mlp_norm = build_norm(config, groups=groups)
        self.mlp: MLP | MixtureOfExperts
        if has_experts(config, layer):
            self.mlp = MixtureOfExperts(config, layer=layer, groups=groups)
        else:
            self.mlp = MLP(config, groups=groups)
        self.mlp_dropout = Dropout(config.dropout, site_key=stream_key(seed, "dropout", layer, "mlp"))

    def forward(self, x_BSH: Tensor, shared: Shared) -> Tensor:
        """[B, S, H] -> [B, S, H]."""
        x_BSH = x_BSH + self.attention_dropout(self.attention(self.attention_norm(x_BSH), shared), shared)
        normed_BSH = self.mlp_norm(x_BSH)
        y_BSH = self.mlp(normed_BSH, shared) if isinstance(self.mlp, MixtureOfExperts) else self.mlp(normed_BSH)
        return x_BSH + self.mlp_dropout(y_BSH, shared)
