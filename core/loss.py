"""The training loss: a sum over tokens, so that whoever knows the global count divides once. Shapes: B micro-batch, S sequence."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..parallel.context import LayerGroups
from ..parallel.cross_entropy import vocab_parallel_cross_entropy
from .inputs import MicroBatch
from .model.input import ModelInput
from .model.precision import autocast
from .model.transformer import Transformer


class LossModel(nn.Module):
    """A transformer with its loss, which is what an engine drives.

    Args:
        transformer: its parameters keep their names under the prefix `transformer.`.
        precision: train.precision; the forward pass enters autocast by itself.
    """

    def __init__(self, transformer: Transformer, *, precision: str = "fp32") -> None:
        super().__init__()
        self.transformer, self.precision = transformer, precision

    @property
    def groups(self) -> LayerGroups:
        """The axes of the model."""
        return self.transformer.groups

    def forward(self, batch: ModelInput, targets_BS: Tensor, loss_mask_BS: Tensor) -> Tensor:
        """Sum over the unmasked tokens of the cross entropy, a fp32 scalar, alike on every rank of the tensor axis.

        Args:
            batch: the micro-batch.
            targets_BS: int64 ids of the next tokens; in the vocabulary also where masked.
            loss_mask_BS: fp32 weight of each token, 0 or 1.
        """
        return (self.token_losses(batch, targets_BS) * loss_mask_BS).sum()

    def token_losses(self, batch: ModelInput, targets_BS: Tensor) -> Tensor:
        """Cross entropy of each token in nats, [B, S] fp32."""
        with autocast(self.precision, targets_BS.device.type):
            logits_BSv = self.transformer(batch)
        return token_losses(logits_BSv, targets_BS, self.transformer)

    def loss_sums(self, count: int, micro_batch: Callable[[int], MicroBatch], progress: Callable[[int], None] | None = None) -> Tensor:
        """Sum of the cross entropies and number of the unmasked tokens of this rank's data, [2] fp64.

        Args:
            count: micro-batches.
            micro_batch: the one of a number.
            progress: told how many are done.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=next(self.parameters()).device)
        for number in range(count):
            micro = micro_batch(number)
            loss_sum: Tensor = self(micro.inputs, micro.targets_BS, micro.loss_mask_BS)
            sums += torch.stack([loss_sum.double(), micro.loss_mask_BS.sum(dtype=torch.float64)])
            if progress is not None:
                progress(number + 1)
        return sums


def token_losses(logits_BSv: Tensor, targets_BS: Tensor, model: Transformer) -> Tensor:
    """Cross entropy of each token in nats, [B, S] fp32, from this rank's columns of the logits of `model`."""
    return vocab_parallel_cross_entropy(logits_BSv, targets_BS, vocab_size=model.config.vocab_size, group=model.groups.tensor)
