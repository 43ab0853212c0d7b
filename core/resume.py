"""Where a run goes on: which checkpoint, whether it may, and the engine filled from it."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..conf.dump import as_dict
from ..conf.schema import Config, Resume
from .checkpoint.accounting import Account, settle
from .checkpoint.agreement import differences, require_agreement
from .checkpoint.checkpointer import Checkpointer
from .checkpoint.folder import LATEST, step_folders
from .checkpoint.reader import Checkpoint, LoadReport
from .engine.build import Built
from .errors import CheckpointError, FolderInUseError
from .inference import find_checkpoint
from .step_log import decode

log = logging.getLogger(__name__)

# What makes another run of it: a resume refuses a change here unless checkpoint.allow_change names the key.
AGREED = ("model", "data.train", "data.stages", "data.document_mask", "data.objective", "optimizer", "schedule", "batch.global_size",
          "batch.ramp_up", "train.seed", "train.steps", "train.gradient_clipping")
LATER_KEYS = ("data.stages", "data.objective", "batch.ramp_up")  # not in older checkpoints: agreed on only where they are used
WEIGHTS = frozenset({"parameter", "buffer"})
TAIL_BYTES = 2**16  # of metrics.jsonl: dozens of lines
MOST_FAILED_SAVES = 3  # a run that can save nothing ends then


@dataclass(frozen=True)
class Resumed:
    """What the engine holds now.

    Args:
        step, samples_seen: done.
        account: of all tensors over all ranks; None where nothing was loaded.
        extra: what the checkpoint says beside its tensors.
    """

    step: int = 0
    samples_seen: int = 0
    account: Account | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def agreed_config(config: Config) -> dict[str, Any]:
    """The part of the config that a resume must not change, nested as in the config."""
    whole = as_dict(config)
    chosen: dict[str, Any] = {}
    for key in AGREED:
        section, _, name = key.partition(".")
        if key in LATER_KEYS and not _used(whole[section][name]):
            continue
        if name:
            chosen.setdefault(section, {})[name] = whole[section][name]
        else:
            chosen[section] = whole[section]
    return chosen


def _used(value: Any) -> bool:
    """Whether a key of stages, of an objective or of a ramp-up says anything."""
    if isinstance(value, Mapping) and "name" in value:
        return bool(value["name"] != "causal")
    return any(value.values()) if isinstance(value, Mapping) else bool(value)


def standing(config: Config, checkpointer: Checkpointer, agreed: dict[str, Any]) -> Checkpoint | None:
    """The newest whole checkpoint of the run folder, if any; reads no weight, so that a refusal comes before the data and the model.

    Raises:
        CheckpointError: it belongs to another config, or checkpoints there were have gone.
        FolderInUseError: the folder holds a run that must not be continued.
    """
    folder = Path(config.run.directory)
    newest = checkpointer.newest()
    if newest is None:
        refuse_lost(config, folder)
        return None
    if config.checkpoint.resume is Resume.never:
        raise FolderInUseError(f"{folder} holds a run and checkpoint.resume=never", do="choose another run.name", file=str(folder))
    require_agreement(newest.config, agreed, allow=config.checkpoint.allow_change, folder=newest.folder)
    refuse_moved_stages(config, newest)
    return newest


def refuse_moved_stages(config: Config, newest: Checkpoint) -> None:
    """Stages of the data begin at samples, which follow from their steps by the batch size: another size, allowed or not, would move
    them, and with them the samples that each source has given.

    Raises:
        CheckpointError: a run with `data.stages` has another batch size than its checkpoint.
    """
    if not config.data.stages:
        return
    batch = as_dict(config.batch)
    changed = [each.key for each in differences(newest.config, agreed_config(config)) if each.key.startswith("batch.")]
    if changed:
        raise CheckpointError(f"{newest.folder} was saved with another {' and '.join(changed)}, which would move the samples where the "
                              f"stages of data.stages begin (now {batch['global_size']} samples a step)", file=str(newest.folder),
                              do="restore the old values, or begin a new run with train.initialize_from")


def refuse_lost(config: Config, folder: Path) -> None:
    """A run whose checkpoints have gone never starts again at step 0 in silence.

    `latest` shows that there was one; so does a last step which the run cannot have reached without committing one.

    Raises:
        CheckpointError: with the way out.
    """
    directory, interval, metrics = folder / "checkpoints", config.checkpoint.interval, folder / "metrics.jsonl"
    reached = last_step(metrics)
    if step_folders(directory):
        return  # damaged, all of them: the load says what is wrong with each
    must_have_saved = reached >= (config.train.stop_at or config.train.steps) or 0 < MOST_FAILED_SAVES * interval < reached
    if os.path.lexists(directory / LATEST) or must_have_saved:
        raise CheckpointError(f"{folder} has trained to step {reached}, and there is no checkpoint of it in {directory}",
                              do=f"restore {directory}; to train anew, choose another run.name or move {folder} away",
                              file=str(directory))


def last_step(path: Path) -> int:
    """The newest step that a metrics file tells of; 0 where it tells of none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).splitlines(keepends=True)
    except OSError:
        return 0
    steps = [row["step"] for line in lines if (row := decode(line)) is not None]
    return max((step for step in steps if isinstance(step, int)), default=0)


def resume(config: Config, built: Built, checkpointer: Checkpointer, agreed: dict[str, Any], newest: Checkpoint | None) -> Resumed:
    """Fills the engine from where the run stands, by `checkpoint.resume`; otherwise from the weights that the config names. Collective.

    Args:
        config: of the run.
        built: the engine to fill.
        checkpointer: of the run.
        agreed: the part of the config that must not have changed.
        newest: as `standing` found it.

    Raises:
        CheckpointError: nothing whole to go on from, it belongs to another config, or it was not taken up exactly once.
    """
    if newest is not None:
        built.state.materialize(moments(newest))
    loaded = checkpointer.load_newest(
        built.state.fragments(), must=config.checkpoint.resume is Resume.must, names=built.state.names,
        accept=lambda found: require_agreement(found.config, agreed, allow=config.checkpoint.allow_change, folder=found.folder),
    )
    if loaded is None:
        if config.train.initialize_from:
            initialize_from(Path(config.train.initialize_from), built)
        return Resumed()
    checkpoint, report = loaded
    account = account_for(checkpoint, report)
    built.state.set_counters(checkpoint.extra)
    built.state.after_load()
    built.engine.go_to(checkpoint.step)
    return Resumed(checkpoint.step, checkpoint.samples_seen, account, checkpoint.extra)


def initialize_from(path: Path, built: Built) -> None:
    """Takes only the weights from a checkpoint folder, or from the newest checkpoint of a run folder. Collective."""
    checkpoint = find_checkpoint(path)
    report = checkpoint.load(built.state.fragments(), kinds=WEIGHTS, names=built.state.names)
    account_for(checkpoint, report, kinds=WEIGHTS)
    built.state.after_load()


def account_for(checkpoint: Checkpoint, report: LoadReport, *, kinds: frozenset[str] | None = None) -> Account:
    """That every tensor was filled exactly once, over all ranks; the whole of it goes to rank 0's log. Collective.

    Raises:
        CheckpointError: on every rank, where one was not.
    """
    account = settle(report.tally, checkpoint.manifest.tensors, checkpoint.folder, kinds=kinds, add_up=_add_up)
    log.info("%s; on this rank: %s", account.line(), report.summary())
    if dist.get_rank() == 0:
        log.info("what was loaded from %s:\n%s", checkpoint.folder, account.table())
    return account


def moments(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Parameter name -> kinds of its saved optimizer moments."""
    found: dict[str, list[str]] = {}
    for name, kind in checkpoint.tensors:
        if kind not in WEIGHTS:
            found.setdefault(name, []).append(kind)
    return found


def _add_up(numbers: list[int]) -> list[int]:
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(total)
    return [int(value) for value in total.tolist()]
