"""Goes back from a loss spike to before it, within the running processes, and passes over the samples since."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.distributed as dist

from .pulse import Phase

if TYPE_CHECKING:
    from .trainer import Trainer


def rewind(trainer: "Trainer") -> bool:
    """To the newest whole checkpoint, which is from before the spike, as none is saved between a step and its judgement. Collective.

    Steps are counted from the checkpoint's again, samples are not: those from the checkpoint to the spike are never seen again. What was
    logged of the steps in between is cut, as a resume does.

    Args:
        trainer: after the step with the spike.

    Returns:
        False where there is no checkpoint yet, and nothing was done.

    Raises:
        NonFiniteError: one rewind too many.
        CheckpointError: no checkpoint can be loaded.
    """
    trainer.saver.settle()  # what is still being written is committed, or is not there, for all ranks alike
    progress = trainer.progress
    trainer.saver.finish()  # a save that is still on its way is of before the spike, too
    if trainer.checkpointer.newest() is None:
        _tell(trainer, f"step {progress.step}: there is no checkpoint yet to go back to; training goes on")
        return False
    trainer.judge.going_back(progress.step)
    trainer.oversight.pulse.enter(Phase.start, progress.step)
    restored = trainer.restore()
    trainer.judge.health.restore(restored.extra.get("health", {}))
    trainer.progress = replace(progress, step=restored.step)
    trainer.loader.reorder(trainer.plan.samples_from(restored.step, progress.samples_seen, trainer.context.coordinate.dp))
    _cut_logs(trainer)
    _tell(trainer, f"rewound from step {progress.step} to step {restored.step} (rewind {trainer.judge.health.rewinds}); samples "
          f"{restored.samples_seen} to {progress.samples_seen - 1} are passed over, step {restored.step + 1} begins with sample "
          f"{progress.samples_seen}")
    return True


def _cut_logs(trainer: "Trainer") -> None:
    """What a resume would cut; rank 0 replaces the files, and all that append to them open the new ones."""
    dist.barrier()  # every rank has written what it had to say of the spike's step
    step = trainer.progress.step
    if trainer.watch is not None:
        trainer.watch.metrics.cut_after(step)
        if trainer.audit is not None:
            trainer.audit.cut_after(step)
    dist.barrier()
    if trainer.audit is not None:
        trainer.audit.reopen()


def _tell(trainer: "Trainer", line: str) -> None:
    trainer.judge.warn(f"WARNING: {line}")
