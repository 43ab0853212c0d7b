"""The first layer: tokens, and positions where they are learned. Shapes: B micro-batch, S sequence, s this rank's shard of it, H hidden."""

from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.context import LayerGroups
from ...parallel.embedding import PositionEmbedding, VocabParallelEmbedding
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
        self.tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size, group=groups.tensor,
                                             sequence_parallel=groups.sequence_parallel)
        self.positions: PositionEmbedding | None = None
        if config.positions == Positions.learned:
            self.positions = PositionEmbedding(config.sequence_length, config.hidden_size, group=groups.tensor,
                                               sequence_parallel=groups.sequence_parallel)
        self.dropout = Dropout(config.dropout, site_key=stream_key(seed, "dropout", "embedding"))

    def forward(self, tokens_BS: Tensor, positions_BS: Tensor, shared: Shared) -> Tensor:
        """ids and positions of the whole sequence -> the residual stream: [B, S, H], or [B, s, H] under sequence parallelism."""
        x = self.tokens(tokens_BS)
        if self.positions is not None:
            x = x + self.positions(positions_BS)
        return self.dropout(x, shared)
