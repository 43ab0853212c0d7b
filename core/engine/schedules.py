"""torch's pipeline schedules over this rank's stages. Shapes: B micro-batch, s tokens of a sample here, H hidden, v vocabulary here."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from ..inputs import MicroBatch
from ..loss import token_losses
from ..model.precision import autocast
from ..model.transformer import Transformer
from ..relay import Pipeline
from .sentinel import Sentinel

SINGLE: dict[str, type[PipelineScheduleSingle]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
SEVERAL: dict[str, type[PipelineScheduleMulti]] = {
    "interleaved_1f1b": ScheduleInterleaved1F1B, "interleaved_zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv": ScheduleZBVZeroBubble, "dualpipev": ScheduleDualPipeV,
}


class FedStage(nn.Module):
    """A stage as a schedule sees it: hidden states come and go, the rest of its input it looks up by the micro-batch's number.

    Every rank of a pipeline has all micro-batches of a step (the same loader), so tokens, documents and positions are never sent.

    Args:
        transformer: the slice of the model.
        precision: train.precision; the forward pass enters autocast by itself.
        feed: the micro-batches of the running step.
        sentinel: told of the hidden states that leave.
    """

    def __init__(self, transformer: Transformer, *, precision: str, feed: Sequence[MicroBatch], sentinel: Sentinel) -> None:
        super().__init__()
        self.transformer, self.precision, self._feed, self._sentinel = transformer, precision, feed, sentinel

    def forward(self, *hidden_BsH: Tensor, number: Tensor) -> Tensor:
        """The hidden states after this stage, of the last one the logits; the first stage is given no hidden states."""
        micro = self._feed[int(number)]
        with autocast(self.precision, micro.targets_BS.device.type):
            out: Tensor = self.transformer(micro.inputs, None, *hidden_BsH)
        if not self.transformer.stage.last:  # the logits show in the loss
            self._sentinel.hidden(self.transformer.stage.index, int(number), out)
        return out


class StageRunner:
    """Forward and backward pass of a step over all micro-batches, in the order of one of torch's schedules.

    Args:
        pipeline: this rank's slices of the model, and where the others lie.
        schedule: parallel.schedule.
        micro_batches: of each step.
        hidden_shape: (B, s, H) of what the stages send, in fp32 (the residual stream under autocast is fp32, too).
        sentinel: told of this rank's losses and hidden states.
    """

    def __init__(self, pipeline: Pipeline, *, schedule: str, micro_batches: int, hidden_shape: tuple[int, int, int],
                 sentinel: Sentinel) -> None:
        self.pipeline, self._sentinel = pipeline, sentinel
        stages = list(pipeline.stages)
        self._last = next((stage for stage in stages if stage.stage.last), None)
        self._feed: list[MicroBatch] = []
        self._numbers = torch.arange(micro_batches)
        self._scale = 1.0
        self._device = next(stages[0].parameters()).device
        self._total = torch.zeros((), dtype=torch.float64, device=self._device)
        hidden_BsH = torch.empty(hidden_shape, device="meta").requires_grad_()
        torch_stages = [
            PipelineStage(FedStage(stage, precision=pipeline.precision, feed=self._feed, sentinel=sentinel), stage.stage.index,
                          pipeline.placement.num_stages, self._device,
                          input_args=() if stage.stage.first else (hidden_BsH,), output_args=(hidden_BsH,), group=pipeline.group)
            for stage in stages]
        # a sum, not a mean: torch must not divide by the number of micro-batches
        self._schedule: PipelineScheduleSingle | PipelineScheduleMulti
        if schedule in SINGLE:
            self._schedule = SINGLE[schedule](torch_stages[0], micro_batches, loss_fn=self._loss, scale_grads=False)
        else:
            self._schedule = SEVERAL[schedule](torch_stages, micro_batches, loss_fn=self._loss, scale_grads=False)  # type: ignore[arg-type]

    def run(self, micro_batches: Sequence[MicroBatch], scale: float) -> Tensor:
        """Adds the gradient of the loss to every parameter's `grad`.

        Args:
            micro_batches: of this step, on every rank of the pipeline the same.
            scale: of the summed loss, before the backward pass.

        Returns:
            Sum of the unscaled cross entropies, fp64; 0 on ranks without the last stage.
        """
        self._feed[:] = micro_batches
        self._scale = scale
        self._total = torch.zeros_like(self._total)
        self._schedule.step(number=self._numbers, target=self._numbers, return_outputs=False)
        self._feed.clear()
        return self._total

    def _loss(self, logits_BSv: Tensor, number: Tensor) -> Tensor:
        assert self._last is not None
        micro = self._feed[int(number)]
        loss_sum = (token_losses(logits_BSv, micro.targets_BS, self._last) * micro.loss_mask_BS).sum()
        self._total = self._total + loss_sum.detach()
        self._sentinel.loss(int(number), loss_sum)
        return loss_sum * self._scale
