"""The training loss: a sum over tokens, so that whoever knows the global count divides once. Shapes: B micro-batch, S sequence."""

from torch import Tensor, nn

from ..parallel.cross_entropy import vocab_parallel_cross_entropy
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
        return vocab_parallel_cross_entropy(logits_BSv, targets_BS, vocab_size=self.transformer.config.vocab_size,
                                            group=self.transformer.groups.tensor)
