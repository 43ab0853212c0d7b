"""Composes a training run: data, layout, model, engine, checkpoint, loop."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..conf.dump import as_dict
from ..conf.schema import Config, Resume
from ..data.dataset import TrainingSet, ValidationSet
from ..data.loader import Loader
from ..data.token_file import open_corpus
from ..parallel.context import ParallelContext
from ..parallel.topology import Topology
from .batch import BatchPlan
from .checkpoint.checkpointer import Checkpoint, Checkpointer, check_room
from .checkpoint.differences import differences
from .console import Console
from .engine.build import Built, build_engine
from .errors import CheckpointError, FolderInUseError
from .loss import LossModel
from .metrics import MetricsLog
from .model.build import build_model
from .trainer import Progress, Trainer, Watch

log = logging.getLogger(__name__)

# What makes another run of it: a resume refuses a change here unless checkpoint.allow_change names the key.
AGREED = ("model", "data.train", "data.document_mask", "optimizer", "schedule", "batch.global_size", "train.seed", "train.steps",
          "train.gradient_clipping")


@dataclass(frozen=True)
class Place:
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device


def open_run(config: Config, place: Place, *, stop_requested: Callable[[], bool]) -> Trainer:
    """Everything up to the first step: opens the data, builds the model and the engine, resumes.

    Args:
        config: resolved and checked.
        place: of this process; torch.distributed is started.
        stop_requested: whether this process was asked to stop.

    Raises:
        DataError, CheckpointError, StorageError, FolderInUseError.
    """
    parallel = config.parallel
    topology = Topology.divide(world_size=place.world_size, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=parallel.ep)
    context = ParallelContext.create(topology, place.rank)
    plan = BatchPlan.divide(global_size=config.batch.global_size, micro_size=config.batch.micro_size, dp=topology.dp)
    training, validation = _one_rank_first(place, lambda: open_data(config))
    checkpointer = Checkpointer(Path(config.run.directory) / "checkpoints", keep=config.checkpoint.keep, rank=place.rank,
                                world_size=place.world_size, agree=lambda ok: _all_agree(ok, place.device))
    agreed = agreed_config(config)
    checkpoint = find_checkpoint(config, checkpointer, agreed)
    progress = Progress(checkpoint.step, checkpoint.samples_seen) if checkpoint else Progress()
    built = _build(config, context, place, plan, start_step=progress.step)
    _fill(config, built, checkpoint)
    watch = _watch(config, progress.step) if place.rank == 0 else None
    dp_rank = context.data.rank()
    first = progress.samples_seen - progress.step * config.batch.global_size  # 0 unless the batch size was changed on the way
    loader = Loader(training, local_samples=lambda step: [first + i for i in plan.samples(step, dp_rank)], workers=config.data.workers)
    return Trainer(config=config, built=built, context=context, plan=plan, loader=loader, validation=validation,
                   checkpointer=checkpointer, agreed=agreed, watch=watch, stop_requested=stop_requested, device=place.device,
                   progress=progress)


def open_data(config: Config) -> tuple[TrainingSet, ValidationSet | None]:
    """The training set, and the validation set unless the config says none."""
    length, mask = config.model.sequence_length, config.data.document_mask
    sources = [(open_corpus(source.path), source.weight) for source in config.data.train]
    training = TrainingSet(sources, sequence_length=length, seed=config.train.seed, document_mask=mask, vocab_size=config.model.vocab_size)
    if config.data.validation == "none":
        return training, None
    held_out = config.data.validation == "held_out"
    path = config.data.train[0].path if held_out else config.data.validation
    part = open_corpus(path, part="validation" if held_out else "train")
    return training, ValidationSet(part, sequence_length=length, document_mask=mask)


def agreed_config(config: Config) -> dict[str, Any]:
    """The part of the config that a resume must not change, nested as in the config."""
    whole, chosen = as_dict(config), {}
    for key in AGREED:
        section, _, name = key.partition(".")
        if name:
            chosen.setdefault(section, {})[name] = whole[section][name]
        else:
            chosen[section] = whole[section]
    return chosen


def find_checkpoint(config: Config, checkpointer: Checkpointer, agreed: dict[str, Any]) -> Checkpoint | None:
    """What the run goes on from, by `checkpoint.resume`; None at a fresh start."""
    folder = Path(config.run.directory)
    used = any((folder / "checkpoints").glob("step-*"))
    if config.checkpoint.resume is Resume.never:
        if used:
            raise FolderInUseError(f"{folder} holds a run and checkpoint.resume=never", do="choose another run.name", file=str(folder))
        return None
    checkpoint = checkpointer.newest()
    if checkpoint is None:
        if used or config.checkpoint.resume is Resume.must:
            what = "no whole checkpoint among those" if used else "no checkpoint"
            raise CheckpointError(f"{what} in {folder / 'checkpoints'}", do="choose another run.name, or restore the folder",
                                  file=str(folder / "checkpoints"))
        return None
    changed = differences(checkpoint.config, agreed, config.checkpoint.allow_change)
    if changed:
        lines = "; ".join(f"{key}: {saved!r} saved, {current!r} now" for key, saved, current in changed)
        names = ",".join(key for key, _, _ in changed)
        raise CheckpointError(f"{checkpoint.folder} belongs to another config: {lines}",
                              do=f"choose another run.name, or checkpoint.allow_change=[{names}] if the model stays the same",
                              file=str(checkpoint.folder))
    return checkpoint


def _build(config: Config, context: ParallelContext, place: Place, plan: BatchPlan, *, start_step: int) -> Built:
    transformer = build_model(config.model, seed=config.train.seed, group=context.tensor, device=place.device,
                              recompute=config.train.recompute.value)
    if config.train.compile:
        transformer.compile_blocks()
    model = LossModel(transformer, precision=config.train.precision.value)
    return build_engine(model, config, context=context, device=place.device, accumulation_steps=plan.accumulation_steps,
                        start_step=start_step)


def _fill(config: Config, built: Built, checkpoint: Checkpoint | None) -> None:
    """Loads the checkpoint, or only the weights that the config names, or checks that the first save will have room."""
    state = built.state
    if checkpoint is not None:
        state.materialize(checkpoint.moments(), updates=int(checkpoint.extra["updates"]))
        report = checkpoint.load(state.fragments())
        state.set_counters(checkpoint.extra)
        state.after_load()
        log.info("resumed from %s: %s", checkpoint.folder, report.summary())
    elif config.train.initialize_from:
        source = Checkpointer.find(Path(config.train.initialize_from))
        report = source.load(state.fragments(), kinds={"parameter"})
        state.after_load()
        log.info("initialized from %s: %s", source.folder, report.summary())
    parameters = sum(f.tensor.numel() * 4 for f in state.fragments() if f.write and f.kind == "parameter")
    check_room(Path(config.run.directory), need_bytes=3 * parameters)  # a parameter and two moments


def _watch(config: Config, step: int) -> Watch:
    metrics = MetricsLog(Path(config.run.directory) / "metrics.jsonl")
    metrics.cut_after(step)
    return Watch(metrics, Console(steps=config.train.stop_at or config.train.steps, interval=config.tracking.console_interval))


def _one_rank_first(place: Place, action: Callable[[], Any]) -> Any:
    """One rank of each node verifies and stamps the corpus; the others then open it in milliseconds."""
    result = action() if place.local_rank == 0 else None
    dist.barrier()
    return result if place.local_rank == 0 else action()


def _all_agree(ok: bool, device: torch.device) -> bool:
    flag = torch.tensor(int(ok), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())
