"""A token embedding that is also the head's weight, where a pipeline puts the two on different ranks.

The last stage computes with a copy. It gives its gradient to the embedding, takes no part in the optimizer (and needs no memory there), and
gets the new weight after each update. Two equal updates instead would drift apart: ZeRO adds up the gradients of the data ranks in an order
that depends on where a parameter lies among the others of its stage.
"""

from collections.abc import Sequence

import torch.distributed as dist
from torch import nn

from ..model.transformer import Transformer


def share_ends(stages: Sequence[Transformer]) -> None:
    """Let a tied head use the embedding's parameter itself where the first and the last stage lie on one rank."""
    embedding, head = stages[0].embedding, stages[-1].head
    if embedding is None or head is None or not stages[0].config.tie_embeddings:
        return
    head.weight = embedding.tokens.weight
    head.aliases, head.copies = {}, set()


def tied_copy(stages: Sequence[Transformer]) -> nn.Parameter | None:
    """The head's copy of an embedding that lies on another rank; None on all other ranks."""
    head = stages[-1].head
    return head.weight if head is not None and head.copies and stages[0].embedding is None else None


class TiedEnds:
    """The embedding on the first rank of a pipeline and its copy on the last; on other ranks, and without a copy, nothing happens.

    Args:
        stages: of this rank.
        group: the first and the last rank of the pipeline; None on the ranks between.
    """

    def __init__(self, stages: Sequence[Transformer], group: dist.ProcessGroup | None) -> None:
        self._copy = tied_copy(stages)
        embedding, config = stages[0].embedding, stages[0].config
        copied = config.tie_embeddings and embedding is not None and stages[-1].head is None
        self._weight = self._copy if not copied or embedding is None else embedding.tokens.weight
        self._group = group

    def sum_gradients(self) -> None:
        """The embedding's gradient gets the copy's; after the backward passes of a step, before gradients are reduced."""
        if self._weight is None:
            return
        assert self._group is not None and self._weight.grad is not None
        dist.reduce(self._weight.grad, group=self._group, group_dst=0)
        if self._copy is not None:
            self._copy.grad = None

    def drop_gradient(self) -> None:
        """The copy forgets its gradient, which no optimizer knows of; where a step is passed over."""
        if self._copy is not None:
            self._copy.grad = None

    def spread(self) -> None:
        """The copy takes the embedding's weight; after an update, and after a checkpoint was loaded."""
        if self._weight is not None:
            dist.broadcast(self._weight.data, group=self._group, group_src=0)
