"""Composes a training run: data, layout, model, engine, checkpoint, loop."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..conf.dump import as_dict, dump_yaml
from ..conf.schema import Config
from ..data.samples.dataset import TrainingSet
from ..data.samples.loader import Loader
from ..data.tokens.description import unwatched
from ..parallel.context import ParallelContext
from ..parallel.stages import SPLIT_BACKWARD
from ..parallel.topology import Topology
from .audit import SampleLog
from .batch import BatchPlan
from .checkpoint.checkpointer import Checkpointer
from .checkpoint.storage import check_room
from .console import Console
from .corpora import validation_source
from .device import device_name
from .engine.build import Built, build_engine, build_pipeline_engine
from .flops import model_flops_per_token, peak_flops
from .health import Health
from .holdings import Layout
from .judge import Judge
from .loss import LossModel
from .metrics import MetricsLog
from .model.build import build_model, compile_blocks
from .objectives import validation_objective
from .oversight import Oversight
from .passes import tick_at_passes
from .picture import headline, picture
from .provenance import restore_run_id
from .pulse import Phase
from .resume import Resumed, agreed_config, resume, standing
from .stage_plan import held_stages
from .starts import record_start
from .tracking.tracker import Tracker
from .trainer import Progress, Trainer, Watch
from .training_data import AnyTrainingSet, AnyValidationSet, open_training, open_validation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device


def train(config: Config, place: Place, oversight: Oversight) -> str:
    """A run from its next step to its last; returns the reason for `exit.json`. Arguments and errors as `open_run`."""
    trainer = open_run(config, place, oversight)
    with trainer.loader, closing(trainer.checkpointer), _tracking(config, place), trainer.recording():
        try:
            return trainer.run()  # one line for all ranks: where it stands is compared when a run hangs
        finally:
            oversight.pulse.enter(Phase.end, trainer.progress.step)


def open_run(config: Config, place: Place, oversight: Oversight) -> Trainer:
    """Everything up to the first step: opens the data, builds the model and the engine, resumes.

    Args:
        config: resolved and checked.
        place: of this process; torch.distributed is started.
        oversight: of the process around this one.

    Raises:
        DataError, CheckpointError, StorageError, FolderInUseError.
    """
    parallel = config.parallel
    topology = Topology.divide(world_size=place.world_size, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=parallel.ep)
    context = ParallelContext.create(topology, place.rank)
    plan = BatchPlan.of(config.batch, dp=topology.dp)
    checkpointer = Checkpointer(Path(config.run.directory) / "checkpoints", keep=config.checkpoint.keep, rank=place.rank,
                                world_size=place.world_size, agree=lambda ok: _all_agree(ok, place.device), fence=oversight.fence,
                                tick=oversight.pulse.tick, asynchronous=config.checkpoint.asynchronous)
    agreed = agreed_config(config)
    newest = standing(config, checkpointer, agreed)
    training, validation = _one_rank_first(place, lambda: open_data(config, oversight.pulse.tick))
    if isinstance(training, TrainingSet) and _in_the_middle(config, context):
        training.leave_out_ids()
    built = build(config, context, place.device, plan)
    tick_at_passes(built.engine.deepspeed.module, oversight.pulse.tick)
    resumed = resume(config, built, checkpointer, agreed, newest)
    progress = Progress(resumed.step, resumed.samples_seen)
    own = built.state.bytes_written()
    total = _sum_over_ranks(own, place.device)
    check_room(Path(config.run.directory), total)
    checkpointer.expect(own=own, total=total)
    oversight.fence()
    if place.rank == 0:
        write_config(config)
        record_start(config, step=progress.step, samples_seen=progress.samples_seen, world_size=place.world_size)
        restore_run_id(Path(config.run.directory), resumed.extra)
    watch = _watch(config, place, resumed) if place.rank == 0 else None
    show_layout(config, place, watch)
    audit = _audit(config, place.rank, context, progress.step) if config.data.audit else None
    loader = Loader(training, local_samples=plan.samples_from(progress.step, progress.samples_seen, context.coordinate.dp),
                    workers=config.data.workers, tick=oversight.pulse.tick)
    judge = Judge(Health.resumed(config.health, resumed.extra), built.engine, context=context, files=training.files,
                  micro_size=config.batch.micro_size, tell=watch.console.line if watch is not None else None)
    return Trainer(config=config, built=built, context=context, plan=plan, loader=loader, validation=validation,
                   checkpointer=checkpointer, agreed=agreed, judge=judge, watch=watch, audit=audit, oversight=oversight,
                   restore=lambda: resume(config, built, checkpointer, agreed, checkpointer.newest()), device=place.device,
                   progress=progress)


def _in_the_middle(config: Config, context: ParallelContext) -> bool:
    """Whether this rank of the pipeline neither embeds tokens nor predicts them."""
    return not any(stage.first or stage.last for stage in held_stages(config.model, config.parallel, context.pipeline.rank()))


def open_data(config: Config, tick: Callable[[], None] = unwatched) -> tuple[AnyTrainingSet, AnyValidationSet | None]:
    """The training set, and the validation set unless the config says none; each block that has to be verified is a sign of progress."""
    length, mask, vocab_size = config.model.sequence_length, config.data.document_mask, config.model.vocab_size
    training = open_training(config, tick)
    held = validation_source(config.data)
    if held is None:
        return training, None
    path, part = held
    return training, open_validation(path, part, sequence_length=length, document_mask=mask, vocab_size=vocab_size,
                                     objective=validation_objective(config.data.objective, config.model, path), tick=tick)


def build(config: Config, context: ParallelContext, device: torch.device, plan: BatchPlan) -> Built:
    """The model and its engine as a run trains them; a proof compares exactly these."""
    splits = config.parallel.pp > 1 and config.parallel.schedule.value in SPLIT_BACKWARD
    groups = context.layer_groups(sequence_parallel=config.parallel.sequence_parallel,
                                  context_attention=config.parallel.context_attention.value,
                                  overlap=device.type == "cuda" and not splits)
    stages = [build_model(config.model, seed=config.train.seed, groups=groups, device=device, recompute=config.train.recompute.value,
                          stage=stage) for stage in held_stages(config.model, config.parallel, context.pipeline.rank())]
    if config.train.compile:
        for stage in stages:
            compile_blocks(stage)
    if config.parallel.pp > 1:
        return build_pipeline_engine(stages, config, context=context, device=device)
    model = LossModel(stages[0], precision=config.train.precision.value)
    return build_engine(model, config, context=context, device=device, accumulation_steps=plan.accumulation_steps)


def write_config(config: Config) -> None:
    """Everything that was decided, for whoever reads the run; whole or not at all, and only once the folder is known to be this run's."""
    path = Path(config.run.directory) / "config.yaml"
    aside = path.with_name(f".config.yaml.{os.getpid()}")
    aside.write_text(dump_yaml(config))
    aside.replace(path)


def _watch(config: Config, place: Place, resumed: Resumed) -> Watch:
    step = resumed.step
    path, last = Path(config.run.directory) / "metrics.jsonl", config.train.stop_at or config.train.steps
    console = Console(steps=last, interval=config.tracking.console_interval)
    if step == 0 and path.exists() and path.stat().st_size:
        console.line(f"WARNING: {config.run.directory} has trained before, but there is no checkpoint: starting again at step 0")
    elif step:
        console.line(f"{config.run.name}: {'complete' if step >= last else 'going on'} at step {step}")
    if resumed.account is not None:
        console.line(resumed.account.line())
    metrics = MetricsLog(path)
    metrics.cut_after(step)
    peak = peak_flops(device_name(place.device), config.train.precision.value)
    return Watch(metrics, console, flops_per_token=model_flops_per_token(config.model),
                 peak_flops=None if peak is None else peak * place.world_size)


def show_layout(config: Config, place: Place, watch: Watch | None) -> None:
    """Which rank holds what: drawn in rank 0's log, and in a line or two on the console where there is more than one rank. Collective."""
    nodes = _sum_over_ranks(int(place.local_rank == 0), place.device)
    if watch is None:
        return
    layout = Layout.of(config, world_size=place.world_size, ranks_per_node=-(-place.world_size // nodes))
    log.info("which rank holds what:\n%s", picture(layout))
    watch.console.layout(headline(layout) if place.world_size > 1 else [])


def _audit(config: Config, rank: int, context: ParallelContext, step: int) -> SampleLog | None:
    """Rank 0 cuts what a resume redoes before any rank appends."""
    path = Path(config.run.directory) / "samples.jsonl"
    if rank == 0:
        with SampleLog(path) as log:
            log.cut_after(step)
    dist.barrier()
    place = context.coordinate  # every rank of a data rank's model reads the same samples
    return SampleLog(path) if (place.pp, place.cp, place.tp) == (0, 0, 0) else None


def _tracking(config: Config, place: Place) -> AbstractContextManager[object]:
    """W&B and TensorBoard for rank 0, in a process of their own."""
    if place.rank != 0:
        return nullcontext()
    settings = config.tracking
    return Tracker(config.run.directory, wandb_mode=settings.wandb.value, project=settings.project, entity=settings.entity,
                   run_name=config.run.name, tensorboard=settings.tensorboard, config=as_dict(config))


def _one_rank_first(place: Place, action: Callable[[], Any]) -> Any:
    """One rank of each node verifies and stamps the corpus; the others then open it in milliseconds."""
    result = action() if place.local_rank == 0 else None
    dist.barrier()
    return result if place.local_rank == 0 else action()


def _sum_over_ranks(number: int, device: torch.device) -> int:
    total = torch.tensor(number, device=device)
    dist.all_reduce(total)
    return int(total)


def _all_agree(ok: bool, device: torch.device) -> bool:
    flag = torch.tensor(int(ok), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())
