"""Builds the engine: DeepSpeed around the model, with our optimizer, schedule and groups."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger
from torch import nn

from ...conf.schema import Config, Offload
from ...parallel.context import ParallelContext
from ...parallel.partition_module import Placed, placed_buffers, placed_parameters
from ..loss import LossModel
from ..model.transformer import Transformer
from ..relay import Pipeline
from ..schedule import schedule_factor
from ..stage_plan import placement
from .axes import ModelParallelUnit
from .engine import Engine
from .experts import announce_experts
from .norm import mark_for_deepspeed, replace_norm
from .optimizer import build_optimizer, parameter_groups
from .pipeline import PipelineEngine, buffers_in, placed_in
from .replicas import Replicas
from .routers import Routers
from .schedules import StageRunner
from .sentinel import Sentinel
from .settings import deepspeed_settings
from .state import EngineState
from .tied import TiedEnds, share_ends, tied_copy


@dataclass(frozen=True)
class Built:
    """An engine, the view of its state that checkpoints use, and what of it must be equal on several ranks."""

    engine: Engine
    state: EngineState
    replicas: Replicas


def quiet_deepspeed() -> None:
    """Before the first process group: no C++ build, no segment in /dev/shm, and only those warnings that users can act on.

    On a CPU, DeepSpeed would compile a shared-memory all-reduce for a minute and leave 66 MiB in /dev/shm for each rank.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed_logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed calls what torch renamed


def build_engine(model: LossModel, config: Config, *, context: ParallelContext, device: torch.device, accumulation_steps: int) -> Built:
    """DeepSpeed's engine around the model.

    Args:
        model: on `device`, initialised.
        config: of the run; composed here, because here its sections meet.
        context: the process groups.
        device: of this rank.
        accumulation_steps: most forward passes of one step on one rank.
    """
    placed = placed_parameters(model.transformer)
    sentinel = Sentinel()
    for each in placed:
        sentinel.watch(each.name, each.parameter)  # before DeepSpeed puts its own hooks on the gradients
    engine, schedule = _initialize(model, placed, config, context=context, device=device, accumulation_steps=accumulation_steps)
    wrapped = Engine(engine, schedule, context=context, placed=placed, routers=Routers(model, config, context),
                     sentinel=sentinel, clipping=config.train.gradient_clipping)
    state = EngineState(engine, placed=placed, buffers=placed_buffers(model.transformer), names=_all_names(placed, context),
                        context=context)
    return Built(wrapped, state, Replicas(state.replicated, world=context.world, device=device))


def build_pipeline_engine(stages: Sequence[Transformer], config: Config, *, context: ParallelContext, device: torch.device) -> Built:
    """DeepSpeed's engine around this rank's stages, under the schedule that the config names.

    Args:
        stages: the slices that `stage_plan` and `placement` give this rank of the pipeline; on `device`, initialised.
        config: of the run.
        context: the process groups.
        device: of this rank.
    """
    share_ends(stages)
    copy = tied_copy(stages)
    everything = placed_in(stages)
    placed, tied = ([each for each in everything if (each.parameter is copy) == is_copy] for is_copy in (False, True))
    pipeline = Pipeline(stages, placement(config.parallel), context.pipeline, precision=config.train.precision.value)
    engine, schedule = _initialize(pipeline, placed, config, context=context, device=device, accumulation_steps=1)
    groups, sentinel = pipeline.groups, Sentinel()
    tokens = config.model.sequence_length // context.context.size() // (groups.tensor.size() if groups.sequence_parallel else 1)
    runner = StageRunner(pipeline, schedule=config.parallel.schedule.value, sentinel=sentinel,
                         hidden_shape=(config.batch.micro_size, tokens, config.model.hidden_size))
    wrapped = PipelineEngine(engine, schedule, context=context, placed=placed, routers=Routers(pipeline, config, context),
                             sentinel=sentinel, clipping=config.train.gradient_clipping, runner=runner)
    state = EngineState(engine, placed=placed, buffers=buffers_in(stages), names=_all_names(placed, context), context=context, tied=tied,
                        refresh=TiedEnds(stages, context.pipeline_ends).spread)
    return Built(wrapped, state, Replicas(state.replicated, world=context.world, device=device))


def _initialize(model: nn.Module, placed: list[Placed], config: Config, *, context: ParallelContext, device: torch.device,
                accumulation_steps: int) -> tuple[deepspeed.DeepSpeedEngine, torch.optim.lr_scheduler.LambdaLR]:
    """DeepSpeed's engine with our optimizer, norm and schedule of the learning rate."""
    mark_for_deepspeed(placed, context)
    announce_experts(model, placed, context)
    groups = parameter_groups(placed, config.optimizer, experts_apart=context.expert.size() > 1)
    optimizer = build_optimizer(groups, config.optimizer, device=device, offloaded=config.parallel.offload is not Offload.none)
    settings = deepspeed_settings(config.train, config.parallel, micro_size=config.batch.micro_size,
                                  accumulation_steps=accumulation_steps, dp=context.data.size(), pin_memory=device.type == "cuda")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, mpu=ModelParallelUnit(context),
                                      dist_init_required=False)
    if config.parallel.zero in (1, 2) and config.parallel.offload is Offload.none:
        replace_norm(engine.optimizer, placed, context)
    factor = schedule_factor(config.schedule, total_steps=config.train.steps)
    return engine, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _all_names(placed: list[Placed], context: ParallelContext) -> list[str]:
    """The parameters of the whole model, of which this rank may hold only a stage."""
    stages: list[list[str]] = [[] for _ in range(context.pipeline.size())]
    dist.all_gather_object(stages, [each.name for each in placed], group=context.pipeline)
    return sorted({name for stage in stages for name in stage})
