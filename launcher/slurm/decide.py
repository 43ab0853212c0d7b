"""What becomes of a job whose ranks have ended. Pure.

    exit code              requeued  why
    0                      no        done
    75, or asked to stop   yes       preempted, and saved; not where the user has cancelled the job: then Slurm is ending it
    2, 3, 4, 8             no        as in launcher/supervisor.py: it ends the same the second time
    all others             yes       a node, a device, a link or a disk may have failed; not a fourth time without a newer checkpoint
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...conf.errors import ConfigError
from ...core.errors import CheckpointError, FolderInUseError, Preempted
from ...data.errors import DataError
from ..supervisor import MOST_FUTILE

HOPELESS = {ConfigError.exit_code, DataError.exit_code, CheckpointError.exit_code, FolderInUseError.exit_code}
ENDING, TIME_LIMIT = "COMPLETING", "TimeLimit"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the ranks of a job ended.

    Args:
        code: of the first cause.
        asked: whether this job was asked to stop.
        futile: restarts in a row, up to this one, that brought no newer checkpoint.
        progress: whether this start has brought one.
        by_slurm: whether Slurm itself is ending the job.
        restarts: how often Slurm has requeued the job.
    """

    code: int
    asked: bool
    futile: int
    progress: bool
    by_slurm: bool
    restarts: int


@dataclass(frozen=True)
class Decision:
    """What follows.

    Args:
        requeue: the job goes back into the queue.
        why: one clause.
    """

    requeue: bool
    why: str


def decide(ended: Ended, *, restart: int, allowed: bool) -> Decision:
    """What follows from the end of a job's ranks.

    Args:
        ended: how they ended.
        restart: how often this start says that the job was requeued before it.
        allowed: `cluster.requeue`.
    """
    if ended.restarts > restart:
        return Decision(False, "Slurm has started this job anew already")
    if ended.code == 0:
        return Decision(False, "the run has reached its end")
    if ended.by_slurm:
        return Decision(False, "Slurm ends the job: somebody has cancelled it, or Slurm puts it back into the queue by itself")
    stopped = ended.code == Preempted.exit_code or ended.asked
    if not stopped and ended.code in HOPELESS:
        return Decision(False, f"exit code {ended.code} would come again")
    if not allowed:
        return Decision(False, "cluster.requeue=false")
    if stopped:
        return Decision(True, "preempted")
    if ended.futile >= MOST_FUTILE and not ended.progress:
        return Decision(False, f"{ended.futile} restarts brought no newer checkpoint")
    return Decision(True, f"exit code {ended.code}")


def seen_by_slurm(job: Mapping[str, str]) -> tuple[bool, int]:
    """Whether Slurm is ending a job, for another reason than its time limit; and how often it was requeued.

    Args:
        job: of `scontrol show job`; empty where Slurm did not answer.
    """
    restarts = job.get("Restarts", "0")
    by_slurm = job.get("JobState") == ENDING and job.get("Reason") != TIME_LIMIT
    return by_slurm, int(restarts) if restarts.isdecimal() else 0
