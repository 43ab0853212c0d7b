"""The first layer: tokens, and positions where they are learned. Shapes: B micro-batch, S sequence, H hidden."""

import torch
from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.context import LayerGroups
from ...parallel.embedding import VocabParallelEmbedding
from ...parallel.random import stream_key
from .dropout import Dropout
from .input import Shared


class Embedding(nn.Module):
    """Token embedding plus learned positions, then dropout.

    Args:
        config: sizes and switches.
        groups: the axes.
        seed: of dropout.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups, seed: int) -> None:
        super().__init__()
        self.tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size, group=groups.tensor)
        self.positions: nn.Embedding | None = None
        if config.positions == Positions.learned:
            # our own zeros: nn.Embedding would draw from torch's generator
            self.positions = nn.Embedding(config.sequence_length, config.hidden_size,
                                          _weight=torch.zeros(config.sequence_length, config.hidden_size))
        self.dropout = Dropout(config.dropout, site_key=stream_key(seed, "dropout", "embedding"))

    def forward(self, tokens_BS: Tensor, positions_BS: Tensor, shared: Shared) -> Tensor:
        """ids and positions -> [B, S, H], alike on every rank of the tensor axis."""
        x_BSH = self.tokens(tokens_BS)
        if self.positions is not None:
            x_BSH = x_BSH + self.positions(positions_BS)
        return self.dropout(x_BSH, shared)
