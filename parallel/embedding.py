"""Token embedding and language-model head, both cut over the vocabulary.

Shapes: B micro-batch, S sequence, H hidden, V vocabulary, v this rank's rows (ceil(V / tp), the last ones may be padding).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .collectives import copy_to_tensor_axis, reduce_from_tensor_axis
from .partition import shard_padded


class VocabParallelEmbedding(nn.Module):
    """Rows of the vocabulary cut into equal blocks; padding rows are zero, are looked up by no id and so get zero gradient.

    Args:
        vocab_size: V, need not be divisible by the group's size.
        hidden_size: H.
        group: the tensor axis.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group = group
        spec = shard_padded((vocab_size, hidden_size), dim=0, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.start = group.rank() * spec.local_size
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """int64 ids in [0, V) -> [B, S, H], alike on every rank."""
        if self.group.size() == 1:
            return F.embedding(tokens_BS, self.weight)
        local_BS = tokens_BS - self.start
        elsewhere_BS = (local_BS < 0) | (local_BS >= self.weight.shape[0])
        x_BSH = F.embedding(local_BS.masked_fill(elsewhere_BS, 0), self.weight)
        return reduce_from_tensor_axis(x_BSH.masked_fill(elsewhere_BS[..., None], 0.0), self.group)


class VocabParallelHead(nn.Module):
    """Hidden states to this rank's logits; its weight is its own, or the token embedding's (`tied_to`).

    Args:
        vocab_size: V.
        hidden_size: H.
        group: the tensor axis.
        tied_to: an embedding of the same sizes whose weight this head shares.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, group: dist.ProcessGroup,
                 tied_to: VocabParallelEmbedding | None = None) -> None:
        super().__init__()
        self.group = group
        spec = shard_padded((vocab_size, hidden_size), dim=0, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.aliases: dict[str, str] = {}
        self.copies: set[str] = set()
        self.weight = nn.Parameter(torch.zeros(spec.local_shape)) if tied_to is None else tied_to.weight

    def forward(self, x_BSH: Tensor) -> Tensor:
        """[B, S, H] -> logits [B, S, v]; those of padding rows mean nothing: the cross entropy and generation leave them out."""
        return F.linear(copy_to_tensor_axis(x_BSH, self.group), self.weight)
