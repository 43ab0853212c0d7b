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

    torch's schedules are made for one number of micro-batches: where a step has another, as while the batch ramps up, they are made anew.

    Args:
        pipeline: this rank's slices of the model, and where the others lie.
        schedule: parallel.schedule.
        hidden_shape: (B, s, H) of what the stages send, in fp32 (the residual stream under autocast is fp32, too).
        sentinel: told of this rank's losses and hidden states.
    """

    def __init__(self, pipeline: Pipeline, *, schedule: str, hidden_shape: tuple[int, int, int], sentinel: Sentinel) -> None:
        self.pipeline, self._sentinel = pipeline, sentinel
        self._name, self._hidden_shape = schedule, hidden_shape
        stages = list(pipeline.stages)
        self._last = next((stage for stage in stages if stage.stage.last), None)
        self._feed: list[MicroBatch] = []
        self._numbers = torch.arange(0)
        self._scale = 1.0
        self._device = next(stages[0].parameters()).device
        self._total = torch.zeros((), dtype=torch.float64, device=self._device)
        self._schedule: PipelineScheduleSingle | PipelineScheduleMulti | None = None

    def _scheduled(self, micro_batches: int) -> PipelineScheduleSingle | PipelineScheduleMulti:
        """The schedule for so many micro-batches; the one before is given up, with its buffers."""
        if self._schedule is not None and len(self._numbers) == micro_batches:
            return self._schedule
        self._schedule, self._numbers = None, torch.arange(micro_batches)
        pipeline, hidden_BsH = self.pipeline, torch.empty(self._hidden_shape, device="meta").requires_grad_()
        torch_stages = [
            PipelineStage(FedStage(stage, precision=pipeline.precision, feed=self._feed, sentinel=self._sentinel), stage.stage.index,
                          pipeline.placement.num_stages, self._device,
                          input_args=() if stage.stage.first else (hidden_BsH,), output_args=(hidden_BsH,), group=pipeline.group)
            for stage in pipeline.stages]
        # a sum, not a mean: torch must not divide by the number of micro-batches
        if self._name in SINGLE:
            self._schedule = SINGLE[self._name](torch_stages[0], micro_batches, loss_fn=self._loss, scale_grads=False)
        else:
            self._schedule = SEVERAL[self._name](torch_stages, micro_batches, loss_fn=self._loss,  # type: ignore[arg-type]
                                                 scale_grads=False)
        return self._schedule

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
        self._scheduled(len(micro_batches)).step(number=self._numbers, target=self._numbers, return_outputs=False)
        self._feed.clear()
        return self._total

    def _loss(self, logits_BSv: Tensor, number: Tensor) -> Tensor:
        assert self._last is not None
        micro = self._feed[int(number)]
        loss_sum = (token_losses(logits_BSv, micro.targets_BS, self._last) * micro.loss_mask_BS).sum()
        self._total = self._total + loss_sum.detach()
        self._sentinel.loss(int(number), loss_sum)
        return loss_sum * self._scale
