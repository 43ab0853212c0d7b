"""From the data layer's numpy batches to the tensors of one forward pass."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.batch import Batch
from .model.input import ModelInput


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of the loss takes. S sequence, B micro-batch."""

    inputs: ModelInput
    targets_BS: Tensor
    loss_mask_BS: Tensor


def micro_batch(batch: Batch, *, step: int, document_mask: bool, device: torch.device) -> MicroBatch:
    """Copies one micro-batch to the device.

    Args:
        batch: of `micro_size` samples.
        step: of the run; part of the key of dropout.
        document_mask: attention stays inside a document; otherwise it is plain causal.
        device: of the model.
    """
    def to_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    inputs = ModelInput(
        tokens_BS=to_device(batch.tokens_BS), positions_BS=to_device(batch.positions_BS),
        documents_BS=to_device(batch.documents_BS) if document_mask else None,
        samples_B=to_device(batch.samples_B), step=torch.tensor(step, dtype=torch.int64, device=device),
    )
    return MicroBatch(inputs, to_device(batch.targets_BS), to_device(batch.loss_mask_BS))
