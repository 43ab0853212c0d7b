"""One optimizer step over DeepSpeed's engine: the loss, its scaling, the norm, and nothing that knows a file or a config."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from ...parallel.context import ParallelContext
from ...parallel.partition_module import Placed
from ..device import peak_memory_bytes
from ..errors import NonFiniteError
from ..inputs import MicroBatch
from ..loss import LossModel
from ..relay import Pipeline
from .loss_scale import LossScale
from .norm import clip
from .routers import Routers
from .sentinel import Seen, Sentinel
from .skipping import pass_over


@dataclass(frozen=True)
class StepResult:
    """What one step gave, equal on all ranks."""

    loss: float  # mean over the global batch's unmasked tokens, nats
    grad_norm: float  # global, before clipping; infinite where a gradient was, NaN where it was not taken
    loss_tokens: int  # unmasked tokens of the global batch
    stage_memory_bytes: tuple[int, ...]  # largest memory held so far, of one rank for each place of the pipeline
    routing: dict[str, float]  # what is logged of the experts' load; empty without experts
    votes: tuple[float, ...]  # each summed over all ranks
    non_finite: str = ""  # "loss" or "gradient": what was not finite; the step was then passed over, and nothing has changed
    overflow: bool = False  # whether fp16 overflowed: the loss scale falls, and nothing else has changed

    def healthy(self) -> Self:
        """Itself, for a loop without a policy for unhealthy steps.

        Raises:
            NonFiniteError: the step was passed over.
        """
        if self.non_finite:
            raise NonFiniteError(f"the {self.non_finite} of a step is not finite", do="lower optimizer.learning_rate")
        return self


class Engine:
    """DeepSpeed's engine around the model, with the loss of the global batch.

    Args:
        engine: from `deepspeed.initialize`.
        schedule: torch's scheduler over the base optimizer.
        context: the process groups.
        placed: every parameter of this rank.
        routers: of the experts.
        sentinel: told of this rank's losses and gradients.
        clipping: largest gradient norm, 0 for none; only stage 0 clips here.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, schedule: torch.optim.lr_scheduler.LambdaLR, *, context: ParallelContext,
                 placed: Sequence[Placed], routers: Routers, sentinel: Sentinel, clipping: float) -> None:
        self.deepspeed = engine
        self._schedule = schedule
        self._context = context
        self._placed = placed
        self._routers = routers
        self._sentinel = sentinel
        self._clipping = clipping
        self._scale = LossScale.of(engine)

    @property
    def module(self) -> LossModel:
        """The model inside the engine."""
        model: LossModel = self.deepspeed.module
        return model

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._schedule.optimizer.param_groups[0]["lr"])

    def go_to(self, step: int) -> None:
        """Sets the schedule to the learning rate of a step, counted from 0."""
        self._schedule.last_epoch = step
        bases, factors = self._schedule.base_lrs, self._schedule.lr_lambdas
        for group, base, factor in zip(self._schedule.optimizer.param_groups, bases, factors, strict=True):
            group["lr"] = base * factor(step)

    def train_step(self, micro_batches: Sequence[MicroBatch], *, votes: Sequence[float] = ()) -> StepResult:
        """Forward, backward and update over this rank's part of the global batch.

        The loss is the sum over the global batch's unmasked tokens divided by their global count, which is known before the
        first backward pass; so neither accumulation nor the data axis ever takes a mean of means.

        Where the loss or a gradient is not finite on any rank, all ranks pass the step over: only the schedule advances.

        Args:
            micro_batches: of this step on this rank; on every rank as many.
            votes: numbers of this rank that all ranks want summed; they travel with the loss, equally many on each.

        Raises:
            NonFiniteError: fp16 overflows at the lowest loss scale; on all ranks at once, before anything was changed.
        """
        self._sentinel.begin()
        self._routers.before_step(len(micro_batches))
        counts = torch.stack([micro.loss_mask_BS.sum(dtype=torch.float64) for micro in micro_batches])
        tokens = self._global_sum(counts.sum(), self._context.data)
        # DeepSpeed averages gradients over the data axis; ours is a sum.
        scale = self._context.data.size() / max(tokens, 1.0)
        total = self._accumulate(micro_batches, scale)
        (loss_sum, bad_gradients), memory, sums = self._agree([total, self._sentinel.bad_gradient(total.device)], votes)
        loss = loss_sum / max(tokens, 1.0)
        norm = self._finish(loss_is_finite=math.isfinite(loss), bad_gradients=bad_gradients > 0)
        overflow = self._scale is not None and math.isfinite(loss) and not math.isfinite(norm)
        non_finite = "loss" if not math.isfinite(loss) else "gradient" if not (math.isfinite(norm) or overflow) else ""
        routing = self._routers.after_step() if math.isfinite(norm) else self._routers.pass_over()
        return StepResult(loss=loss, grad_norm=norm, loss_tokens=int(tokens), stage_memory_bytes=memory, routing=routing, votes=sums,
                          non_finite=non_finite, overflow=overflow)

    def seen(self) -> Seen:
        """What was not finite on this rank in the last step."""
        return self._sentinel.seen()

    def losses(self) -> list[tuple[int, float]]:
        """Micro-batch and summed loss of the last step's micro-batches whose loss this rank computed."""
        return self._sentinel.losses()

    def _finish(self, *, loss_is_finite: bool, bad_gradients: bool) -> float:
        """Updates, or passes over what all ranks know to be unhealthy; returns the norm before clipping."""
        if not loss_is_finite or (bad_gradients and self._scale is None):
            self._pass_over()
            norm = math.nan if not loss_is_finite else math.inf
        else:
            norm = self._update()
        self.go_to(self._schedule.last_epoch + 1)
        return norm

    def _accumulate(self, micro_batches: Sequence[MicroBatch], scale: float) -> Tensor:
        """Forward and backward passes of a step; returns the sum of this rank's unscaled losses, fp64."""
        total = torch.zeros((), dtype=torch.float64, device=micro_batches[0].loss_mask_BS.device)
        last = len(micro_batches) - 1
        for index, micro in enumerate(micro_batches):
            self._sentinel.micro_batch(index)
            self.deepspeed.set_gradient_accumulation_boundary(index == last)  # by itself it counts on equally many in each step
            loss_sum = self.deepspeed(micro.inputs, micro.targets_BS, micro.loss_mask_BS)
            self.deepspeed.backward(loss_sum * scale, scale_wrt_gas=False)
            total += loss_sum.detach()
            self._sentinel.loss(index, loss_sum)
            if index < last:
                self.deepspeed.step()  # counts the micro-batch; updates nothing
        return total

    def _update(self) -> float:
        """Clips and updates; returns the norm before clipping. Where it is not finite, nothing was updated."""
        if self.deepspeed.zero_optimization():
            if self._scale is not None:
                self._scale.before_update()
            self.deepspeed.step()
            norm = float(self.deepspeed.get_global_grad_norm())  # DeepSpeed skipped the update if it is not finite
            if self._scale is not None:
                self._scale.after_update(overflow=not math.isfinite(norm))
            return norm
        norm = clip(self._placed, self._context, self._clipping if self._clipping > 0 else math.inf)
        if math.isfinite(norm):
            self.deepspeed.step()
        else:
            self._pass_over()
        return norm

    def _pass_over(self) -> None:
        """Ends the step without an update."""
        pass_over(self.deepspeed)

    def _agree(self, parts: Sequence[Tensor], votes: Sequence[float]) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
        """Sums of this rank's parts, the memory along the pipeline, and the votes' sums, in one reduction over the world."""
        context, place = self._context, self._context.coordinate
        memory = parts[0].new_zeros(context.pipeline.size())
        if (place.dp, place.cp, place.tp) == (0, 0, 0):  # one for all ranks that hold the same stages
            memory[place.pp] = peak_memory_bytes(memory.device)
        # The ranks of one tensor group hold the same loss: each brings its part of it.
        numbers = torch.cat([torch.stack(list(parts)) / context.tensor.size(), memory, memory.new_tensor(votes)])
        dist.all_reduce(numbers, group=context.world)
        sums, first, last = tuple(numbers.tolist()), len(parts), len(parts) + len(memory)
        return sums[:first], tuple(map(int, sums[first:last])), sums[last:]

    @staticmethod
    def _global_sum(value: Tensor, group: dist.ProcessGroup) -> float:
        total = value.clone()
        dist.all_reduce(total, group=group)
        return float(total)

    @contextmanager
    def evaluating(self) -> Iterator[LossModel | Pipeline]:
        """The model in evaluation mode."""
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.train()
