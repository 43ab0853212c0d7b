"""The nodes that Slurm gave to a job, as its batch script sees them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import PortError


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One start of a job.

    Args:
        job: id that `scontrol` takes: `12`, or `12_3` for a member of an array.
        restart: how often the job was requeued before.
        nodes: how many; a requeued job may have others than it was submitted with.
        node_list: their names in Slurm's short form.
    """

    job: str
    restart: int
    nodes: int
    node_list: str


def read_allocation(variables: Mapping[str, str]) -> Allocation:
    """Reads what slurmd tells a batch script.

    Args:
        variables: as `os.environ`.

    Raises:
        PortError: this is no batch script of Slurm's.
    """
    job, nodes, restart = (variables.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_RESTART_COUNT"))
    if not re.fullmatch(r"\d+", job) or not re.fullmatch(r"[1-9]\d*", nodes):
        raise PortError("this is not the batch script of a Slurm job", do="start it by `hexareme submit`")
    array, member = variables.get("SLURM_ARRAY_JOB_ID", ""), variables.get("SLURM_ARRAY_TASK_ID", "")
    if re.fullmatch(r"\d+", array) and re.fullmatch(r"\d+", member):
        job = f"{array}_{member}"
    return Allocation(job=job, restart=int(restart) if re.fullmatch(r"\d+", restart) else 0, nodes=int(nodes),
                      node_list=variables.get("SLURM_JOB_NODELIST", ""))
