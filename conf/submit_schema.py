"""Every key of `hexareme submit`: those of a training run, and what Slurm shall do with it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .fields import number, text
from .schema import Config, DataConfig


class SubmitAction(StrEnum):
    submit = "submit"
    status = "status"
    cancel = "cancel"
    logs = "logs"


@dataclass(kw_only=True)
class SubmittedDataConfig(DataConfig):
    """`action=status` needs no corpus."""

    train: Any = text("unset", help="a corpus folder, a Megatron prefix, or a list of {path, weight}, or of {path, epochs}")


@dataclass(kw_only=True)
class SubmitConfig(Config):
    """A training run as a Slurm job."""

    data: SubmittedDataConfig
    action: SubmitAction = text(SubmitAction.submit, help="submit; status, cancel or logs of a run's job")
    dry_run: bool = text(False, help="print the batch script and submit nothing")
    sweep: str = text("", help="several runs as one job array: `key=value,value key=value,value`, every combination, each in a folder of "
                      "its own")
    chain: int = number(1, least=1, most=100, help="jobs that follow one another, each going on where the last one ended: for queues "
                        "that allow no requeue")
    job: str = text("", help="status, cancel, logs: a Slurm job id; empty: the last job of run.directory")
    output: str = text("", help="JSON file for the result; empty: only printed")
