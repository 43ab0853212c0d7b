"""The machines of a run, and how its ranks are started on them."""

from dataclasses import dataclass
from enum import StrEnum

from .fields import number, text


class ClusterKind(StrEnum):
    local = "local"
    ssh = "ssh"
    slurm = "slurm"


@dataclass(kw_only=True)
class ClusterConfig:
    kind: ClusterKind = text(ClusterKind.local, help="how `hexareme train` starts the ranks")
    nodes: int = number(1, least=1, help="machines")
    ranks_per_node: int = number(1, least=1, help="processes on each machine")
    partition: str = text("", help="Slurm: partition; empty: the cluster's own choice")
    account: str = text("", help="Slurm: account that pays")
    qos: str = text("", help="Slurm: quality of service")
    constraint: str = text("", help="Slurm: features that each node must have, as `a100&ib`")
    exclude: str = text("", help="Slurm: nodes not to use, as `n[3,7-9]`")
    time_limit: str = text("", help="Slurm: `minutes`, `hours:minutes:seconds` or `days-hours`; empty: the partition's")
    signal_seconds: int = number(120, least=1, most=65535, help="Slurm: seconds before the time limit when the run saves and is requeued")
    cpus_per_rank: int = number(0, least=0, help="Slurm: cores of each rank; 0: Slurm's default")
    gpus_per_node: int = number(0, least=0, help="Slurm: GPUs of each node; 0: none are asked for")
    memory: str = text("", help="Slurm: memory of each node, as `64G`; empty: the cluster's default")
    requeue: bool = text(True, help="Slurm: back into the queue after a preemption, and after a crash while the run makes progress")
    hostfile: str = text("", help="hosts by ssh: lines of `host slots=n`")
