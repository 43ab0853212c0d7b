"""One optimizer step of a model that is cut into pipeline stages: DeepSpeed's ZeRO-1 engine under torch's schedules."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import deepspeed
import torch
from torch import Tensor

from ...parallel.context import ParallelContext
from ...parallel.partition_module import Placed, placed_buffers, placed_parameters
from ..inputs import MicroBatch
from ..model.transformer import Transformer
from ..relay import Pipeline
from .engine import Engine
from .routers import Routers
from .schedules import StageRunner
from .sentinel import Sentinel
from .tied import TiedEnds


class PipelineEngine(Engine):
    """An engine whose forward and backward passes are a schedule's; the loss, the update and all that is agreed are `Engine`'s.

    DeepSpeed is told of one micro-batch for each step: the schedule goes through those that there are, and gradients accumulate in
    fp32 in the parameters until all are done.

    Args:
        engine: from `deepspeed.initialize`, ZeRO-1.
        schedule: torch's scheduler over the base optimizer.
        context: the process groups.
        placed: every parameter of this rank.
        routers: of the experts.
        sentinel: told of this rank's losses, hidden states and gradients.
        clipping: largest gradient norm.
        runner: the pipeline schedule over this rank's stages.
    """

    def __init__(self, engine: deepspeed.DeepSpeedEngine, schedule: torch.optim.lr_scheduler.LambdaLR, *, context: ParallelContext,
                 placed: Sequence[Placed], routers: Routers, sentinel: Sentinel, clipping: float, runner: StageRunner) -> None:
        super().__init__(engine, schedule, context=context, placed=placed, routers=routers, sentinel=sentinel, clipping=clipping)
        self._runner = runner
        self._pipeline = runner.pipeline
        self._of_stages = [(stage.stage.index, each) for stage in runner.pipeline.stages for each in placed_parameters(stage)]
        self._tied = TiedEnds(list(runner.pipeline.stages), context.pipeline_ends)

    def _accumulate(self, micro_batches: Sequence[MicroBatch], scale: float) -> Tensor:
        total = self._runner.run(micro_batches, scale)
        for stage, each in self._of_stages:
            if each.parameter.grad is not None:
                self._sentinel.gradient(stage, -1, each.name, each.parameter.grad)
        return total

    def _update(self) -> float:
        self._tied.sum_gradients()
        self.deepspeed.optimizer.reduce_gradients(pipeline_parallel=True)
        norm = super()._update()
        self._tied.spread()
        return norm

    def _pass_over(self) -> None:
        self._tied.drop_gradient()
        super()._pass_over()

    @contextmanager
    def evaluating(self) -> Iterator[Pipeline]:
        """The pipeline in evaluation mode."""
        self._pipeline.eval()
        try:
            yield self._pipeline
        finally:
            self._pipeline.train()


def placed_in(stages: Sequence[Transformer]) -> list[Placed]:
    """Every parameter of this rank by its name in the whole model; a shared one once."""
    found = {id(each.parameter): each for stage in reversed(stages) for each in reversed(placed_parameters(stage))}
    return list(reversed(found.values()))


def buffers_in(stages: Sequence[Transformer]) -> dict[str, Tensor]:
    """Persistent buffers of this rank by full name."""
    return {name: buffer for stage in stages for name, buffer in placed_buffers(stage).items()}
