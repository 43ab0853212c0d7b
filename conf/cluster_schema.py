"""The machines of a run, and how its ranks are started on them."""

from dataclasses import dataclass
from enum import StrEnum

from .fields import items, number, text


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
    hostfile: str = text("", help="hosts by ssh: a file of lines `host slots=n` or `n[01-16] slots=n`; the first cluster.nodes are taken")
    ssh_port: int = number(0, least=0, most=65535, help="hosts by ssh: port; 0: as ssh's own configuration says")
    ssh_config: str = text("", help="hosts by ssh: configuration file of ssh; empty: the user's own")
    connect_timeout: int = number(20, least=1, most=3600, help="hosts by ssh: seconds for a host to answer")
    link_timeout: int = number(30, least=3, most=86400, help="hosts by ssh: seconds of silence after which the "
                               "other side is lost")
    python: str = text("", help="hosts by ssh: interpreter there; empty: the path of the one that runs here")
    folder: str = text("", help="hosts by ssh: working folder there; empty: the path of this one")
    interface: str = text("", help="hosts by ssh: network interface of the ranks, as eth0; empty: the one at which ssh reaches a host")
    environment: list[str] = items(["OMP_NUM_THREADS", "NCCL_*", "GLOO_*", "TORCH_*"],
                                   help="hosts by ssh: variables of this shell that the ranks get, as NAME or NAME_*")
