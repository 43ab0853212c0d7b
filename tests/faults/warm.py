"""Runs whose ranks are forked without a front end: `core.run.train` as a rank calls it, for rows that need many starts and no signals."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hexareme.conf.compose import compose
from hexareme.conf.schema import Config
from hexareme.core import run as run_module
from hexareme.core.checkpoint.folder import folder_name
from hexareme.core.oversight import Oversight
from hexareme.core.trainer import Trainer

from tests.ranks import run_ranks

from .rig import Run, hashes

Hashes = dict[tuple[str, str], str]
AtOnce = Callable[[Trainer], Any]  # done by every rank between the load and the first step


def go(run: Run, *overrides: str, ranks: int = 2, at_once: AtOnce = lambda trainer: None) -> list[Any]:
    """One start, to its end; goes on where the last one ended.

    Args:
        run: the run.
        overrides: beside the run's own.
        ranks: how many.
        at_once: done by every rank between the load and the first step.

    Returns:
        What `at_once` returned, by rank, as it is at the end of the start.
    """
    config = compose("train", [*run.overrides, *overrides])
    run.directory.mkdir(exist_ok=True)
    return run_ranks(_rank, ranks, config, ranks, at_once, timeout=240, quiet=True)


def _rank(rank: int, config: Config, ranks: int, at_once: AtOnce) -> Any:
    os.environ["LOCAL_RANK"] = str(rank)
    found, right = [], run_module.open_run

    def opened(*arguments: Any) -> Trainer:
        trainer = right(*arguments)
        found.append(at_once(trainer))
        return trainer

    run_module.open_run = opened  # of this process, which ends with the case
    run_module.train(config, run_module.Place(rank, ranks, rank, torch.device("cpu")), Oversight())
    return found[0]


def save_again(trainer: Trainer) -> Hashes:
    """Saves what was just loaded, as this layout saves it, and in place of what the other layout wrote; returns rank 0's hashes of it."""
    folder = Path(trainer.config.run.directory) / "checkpoints" / folder_name(trainer.progress.step)
    if trainer.context.rank == 0:
        shutil.rmtree(folder)
    dist.barrier()
    trainer.save(last=True)
    dist.barrier()
    return hashes(folder) if trainer.context.rank == 0 else {}


def stopped_at(source: Run, step: int, target: Run) -> Run:
    """`target` as if it were `source`, whose only checkpoint is that of `step`, and which was killed some time later."""
    checkpoint = source.directory / "checkpoints" / folder_name(step)
    shutil.copytree(checkpoint, target.directory / "checkpoints" / checkpoint.name, copy_function=os.link)
    for name in ("metrics.jsonl", "samples.jsonl"):
        shutil.copy(source.directory / name, target.directory / name)
    return target
