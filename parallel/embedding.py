"""Token embedding and language-model head, both cut over the vocabulary.

Shapes: B micro-batch, S sequence, s this rank's shard of it, H hidden, V vocabulary, v this rank's rows (ceil(V / tp), the last ones may
be padding). The residual stream is [B, S, H] alike on every rank, or [B, s, H] under sequence parallelism.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .collectives import leave_tensor_region, residual_parameter, residual_slice
from .linear import column_linear
from .partition import shard_padded


class VocabParallelEmbedding(nn.Module):
    """Rows of the vocabulary cut into equal blocks; padding rows are zero, are looked up by no id and so get zero gradient.

    Args:
        vocab_size: V, need not be divisible by the group's size.
        hidden_size: H.
        group: the tensor axis.
        sequence_parallel: the result is this rank's shard of the sequence.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, group: dist.ProcessGroup, sequence_parallel: bool = False) -> None:
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        spec = shard_padded((vocab_size, hidden_size), dim=0, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.start = group.rank() * spec.local_size
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """int64 ids in [0, V), of the whole sequence -> the residual stream."""
        if self.group.size() == 1:
            return F.embedding(tokens_BS, self.weight)
        local_BS = tokens_BS - self.start
        elsewhere_BS = (local_BS < 0) | (local_BS >= self.weight.shape[0])
        x_BSH = F.embedding(local_BS.masked_fill(elsewhere_BS, 0), self.weight)
        return leave_tensor_region(x_BSH.masked_fill(elsewhere_BS[..., None], 0.0), self.group, sequence_parallel=self.sequence_parallel)


class PositionEmbedding(nn.Module):
    """Learned positions, whole on every rank; looked up for the tokens of the residual stream.

    Args:
        sequence_length: rows.
        hidden_size: H.
        group: the tensor axis.
        sequence_parallel: the result is this rank's shard of the sequence.
    """

    def __init__(self, sequence_length: int, hidden_size: int, *, group: dist.ProcessGroup, sequence_parallel: bool = False) -> None:
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        self.weight = nn.Parameter(torch.zeros(sequence_length, hidden_size))

    def forward(self, positions_BS: Tensor) -> Tensor:
        """int64 positions of the whole sequence -> the residual stream."""
        weight_SH = residual_parameter(self.weight, self.group, sequence_parallel=self.sequence_parallel)
        return F.embedding(residual_slice(positions_BS, self.group, sequence_parallel=self.sequence_parallel, dim=1), weight_SH)


class VocabParallelHead(nn.Module):
    """Hidden states to this rank's logits; its weight is its own, or the token embedding's (`tied_to`).

    Args:
        vocab_size: V.
        hidden_size: H.
        group: the tensor axis.
        tied_to: an embedding of the same sizes whose weight this head shares.
        sequence_parallel, overlap: as for `ColumnParallelLinear`.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, group: dist.ProcessGroup, tied_to: VocabParallelEmbedding | None = None,
                 sequence_parallel: bool = False, overlap: bool = False) -> None:
        super().__init__()
        self.group, self.sequence_parallel, self.overlap = group, sequence_parallel, overlap
        spec = shard_padded((vocab_size, hidden_size), dim=0, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.aliases: dict[str, str] = {}
        self.copies: set[str] = set()
        self.weight = nn.Parameter(torch.zeros(spec.local_shape)) if tied_to is None else tied_to.weight

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream -> logits [B, S, v]; those of padding rows mean nothing: the cross entropy and generation leave them out."""
        return column_linear(x, self.weight, None, self.group, sequence_parallel=self.sequence_parallel, overlap=self.overlap)
