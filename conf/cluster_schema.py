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
    partition: str = text("", help="Slurm partition")
    hostfile: str = text("", help="hosts by ssh: lines of `host slots=n`")
