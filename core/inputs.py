"""From the data layer's numpy batches to the tensors of one forward pass."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.samples.batch import Batch
from ..parallel.context import LayerGroups
from ..parallel.sequence_cut import chunks
from .model.input import ModelInput


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of the loss takes. S sequence, B micro-batch."""

    inputs: ModelInput
    targets_BS: Tensor
    loss_mask_BS: Tensor


def micro_batch(batch: Batch, *, step: int, document_mask: bool, device: torch.device, groups: LayerGroups | None = None) -> MicroBatch:
    """Copies one micro-batch to the device, and keeps of it what this rank of the context axis holds.

    Args:
        batch: of `micro_size` samples.
        step: of the run; part of the key of dropout.
        document_mask: attention stays inside a document; otherwise it is plain causal.
        device: of the model.
        groups: the axes of the model; None: every rank takes whole windows.

    Raises:
        ValueError: the window cannot be cut over the context axis.
    """
    def to_device(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.contiguous().pin_memory()  # torch keeps the pages for the next batch; only from there the copy is asynchronous
        return tensor.to(device, non_blocking=True)

    def wide(array: np.ndarray) -> Tensor:
        """Ids travel as narrow as the file holds them, and are widened on the device."""
        return to_device(array).to(torch.int64)

    inputs = ModelInput(
        tokens_BS=wide(batch.tokens_BS), positions_BS=wide(batch.positions_BS),
        documents_BS=to_device(batch.documents_BS) if document_mask else None,
        samples_B=to_device(batch.samples_B), step=torch.tensor(step, dtype=torch.int64, device=device),
    )
    micro = MicroBatch(inputs, wide(batch.targets_BS), to_device(batch.loss_mask_BS))
    return micro if groups is None else cut_to_context(micro, groups)


def cut_to_context(micro: MicroBatch, groups: LayerGroups) -> MicroBatch:
    """This rank's tokens of every window, with their targets, positions, documents and loss weights: each is on one rank of the axis.

    Args:
        micro: whole windows.
        groups: the axes; a context of one keeps all.

    Raises:
        ValueError: the window cannot be cut evenly.
    """
    context = groups.context
    if context.size() == 1:
        return micro
    inputs = micro.inputs
    held = chunks(inputs.tokens_BS.shape[1], cp=context.size(), rank=context.rank(), kind=groups.context_attention)

    def cut(x_BS: Tensor) -> Tensor:
        return torch.cat([x_BS[:, part.start:part.stop] for part in held], dim=1)

    places_S = torch.cat([torch.arange(part.start, part.stop, device=inputs.tokens_BS.device) for part in held])
    inputs = inputs._replace(tokens_BS=cut(inputs.tokens_BS), positions_BS=cut(inputs.positions_BS), places_S=places_S,
                             documents_BS=None if inputs.documents_BS is None else cut(inputs.documents_BS))
    return MicroBatch(inputs, cut(micro.targets_BS), cut(micro.loss_mask_BS))
