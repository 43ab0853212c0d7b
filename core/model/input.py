"""What a forward pass takes in. Shapes: B micro-batch, S sequence, D head dim, K keys."""

from typing import NamedTuple

from torch import Tensor

from .cache import KeyValueCache


class ModelInput(NamedTuple):
    """One micro-batch as the model sees it; a tuple, so that DeepSpeed's hooks and torch.compile look inside.

    Args:
        tokens_BS: int64 ids.
        positions_BS: int64 positions for the position embedding or RoPE (they may restart at each document).
        documents_BS: integer segment numbers: attention stays inside equal numbers; None: plain causal attention.
        samples_B: int64 global sample indices, for dropout.
        step: 0-d int64 tensor, the optimizer step, for dropout.
        places_S: int64 places of these tokens in the window, where they are a part of it (context axis); None: all, in order.
    """

    tokens_BS: Tensor
    positions_BS: Tensor
    documents_BS: Tensor | None
    samples_B: Tensor
    step: Tensor
    places_S: Tensor | None = None


class Shared(NamedTuple):
    """What every block of one forward pass shares.

    Args:
        rotation_BSD: cosine and sine of the rotary angles, each [B, S, D / 2] fp32; None without RoPE.
        mask_BSK: bool, which keys a query sees; None: all up to its own position (or nobody reads it, on the ring). Queries are those that
            attention computes on this rank: the whole window under Ulysses.
        samples_B, step: as in `ModelInput`.
        positions_S: int64 places of the queries in the window, for dropout on attention weights.
        residual_positions_S: the same for the tokens of the residual stream: a shard of them under sequence parallelism.
        documents_BK: segment numbers of the whole window, in its order; None: plain causal. The ring takes them in place of the mask.
        cache: keys and values of earlier tokens; None outside generation.
    """

    rotation_BSD: tuple[Tensor, Tensor] | None
    mask_BSK: Tensor | None
    samples_B: Tensor
    step: Tensor
    positions_S: Tensor
    residual_positions_S: Tensor
    documents_BK: Tensor | None
    cache: KeyValueCache | None
