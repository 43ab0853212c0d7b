"""One optimizer step over DeepSpeed's engine: the loss, its scaling, the norm, and nothing that knows a file or a config."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
from .norm import clip
from .routers import Routers

LOWER_THE_RATE = "look at the batch, or go on from the last checkpoint with a lower optimizer.learning_rate"


@dataclass(frozen=True)
class StepResult:
    """What one step gave, equal on all ranks."""

    loss: float  # mean over the global batch's unmasked tokens, nats
    grad_norm: float  # global, before clipping; infinite where fp16 overflowed and the step was skipped
    loss_tokens: int  # unmasked tokens of the global batch
    stage_memory_bytes: tuple[int, ...]  # largest memory held so far, of one rank for each place of the pipeline
    routing: dict[str, float]  # what is logged of the experts' load; empty without experts
    votes: tuple[float, ...]  # each summed over all ranks


class Engine:
    """DeepSpeed's engine around the model, with the loss of the global batch.

    Args:
        engine: from `deepspeed.initialize`.
        schedule: torch's scheduler over the base optimizer.
        context: the process groups.
        placed: every parameter of this rank.
        routers: of the experts.
        clipping: largest gradient norm, 0 for none; only stage 0 clips here.
        skips_overflow: whether a non-finite gradient is part of the method (fp16's dynamic loss scale).
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, schedule: torch.optim.lr_scheduler.LambdaLR, *,
                 context: ParallelContext, placed: Sequence[Placed], routers: Routers, clipping: float, skips_overflow: bool) -> None:
        self.deepspeed = engine
        self._schedule = schedule
        self._context = context
        self._placed = placed
        self._routers = routers
        self._clipping = clipping
        self._skips_overflow = skips_overflow

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

        Args:
            micro_batches: as many as the accumulation steps that the engine was built for.
            votes: numbers of this rank that all ranks want summed; they travel with the loss, equally many on each.

        Raises:
            NonFiniteError: before anything was changed, on all ranks at once.
        """
        counts = torch.stack([micro.loss_mask_BS.sum(dtype=torch.float64) for micro in micro_batches])
        tokens = self._global_sum(counts.sum(), self._context.data)
        # DeepSpeed averages gradients over the data axis; ours is a sum.
        scale = self._context.data.size() / max(tokens, 1.0)
        total = self._accumulate(micro_batches, scale)
        loss_sum, memory, sums = self._agree(total, votes)
        loss = loss_sum / max(tokens, 1.0)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}", do=LOWER_THE_RATE)
        norm = self._update()
        return StepResult(loss=loss, grad_norm=norm, loss_tokens=int(tokens), stage_memory_bytes=memory,
                          routing=self._routers.after_step(), votes=sums)

    def _accumulate(self, micro_batches: Sequence[MicroBatch], scale: float) -> Tensor:
        """Forward and backward passes of a step; returns the sum of this rank's unscaled losses, fp64."""
        total = torch.zeros((), dtype=torch.float64, device=micro_batches[0].loss_mask_BS.device)
        last = len(micro_batches) - 1
        for index, micro in enumerate(micro_batches):
            loss_sum = self.deepspeed(micro.inputs, micro.targets_BS, micro.loss_mask_BS)
            self.deepspeed.backward(loss_sum * scale, scale_wrt_gas=False)
            total += loss_sum.detach()
            if index < last:
                self.deepspeed.step()  # counts the micro-batch; updates nothing
        return total

    def _update(self) -> float:
        """Clips, updates, advances the schedule; returns the norm before clipping."""
        norm = None
        if not self.deepspeed.zero_optimization():
            bound = self._clipping if self._clipping > 0 else math.inf
            norm = clip(self._placed, self._context, bound)
            self._require_finite(norm)
        self.deepspeed.step()
        if norm is None:
            norm = float(self.deepspeed.get_global_grad_norm())  # DeepSpeed skipped the update if it is not finite
            self._require_finite(norm)
        self._schedule.step()
        return norm

    def _require_finite(self, norm: float) -> None:
        if not math.isfinite(norm) and not self._skips_overflow:
            raise NonFiniteError("the gradient is not finite", do=LOWER_THE_RATE)

    def _agree(self, loss_sum: Tensor, votes: Sequence[float]) -> tuple[float, tuple[int, ...], tuple[float, ...]]:
        """The global loss sum, the memory along the pipeline, and the votes' sums, in one reduction over the world."""
        context, place = self._context, self._context.coordinate
        memory = loss_sum.new_zeros(context.pipeline.size())
        if (place.dp, place.cp, place.tp) == (0, 0, 0):  # one for all ranks that hold the same stages
            memory[place.pp] = peak_memory_bytes(loss_sum.device)
        # The ranks of one tensor group hold the same loss: each brings its part of it.
        numbers = torch.cat([(loss_sum / context.tensor.size())[None], memory, loss_sum.new_tensor(votes)])
        dist.all_reduce(numbers, group=context.world)
        total, *others = numbers.tolist()
        return total, tuple(map(int, others[: len(memory)])), tuple(others[len(memory) :])

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
