"""Which nodes a job should not get again, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import Preempted
from .history import ENDED, SUBMITTED
from .tools import call

TWICE = 2  # a rank may die once on a healthy node


def bad_nodes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Nodes on which a rank was the first to fail twice, each with the reason. Pure.

    A preemption blames nobody. Whoever submits anew begins anew.

    Args:
        rows: of a history.
    """
    blamed: dict[str, list[str]] = {}
    for row in rows:
        if row.get("event") == SUBMITTED:
            blamed = {}
        node, code = row.get("node"), row.get("code")
        if row.get("event") == ENDED and node and code not in (0, Preempted.exit_code):
            blamed.setdefault(str(node), []).append(f"exit code {code}, rank {row.get('rank')}: {row.get('what') or 'no cause is known'}")
    return {node: f"{len(reasons)} failures began there, the last with {reasons[-1]}" for node, reasons in blamed.items()
            if len(reasons) >= TWICE}


def node_of(rank: Any, names: Sequence[str], ranks_per_node: int) -> str:
    """The node of a rank; empty where nobody knows the rank. Pure.

    Args:
        rank: of `exit.json`.
        names: of the nodes, in Slurm's order.
        ranks_per_node: as srun was told.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < len(names) * ranks_per_node:
        return ""
    return names[rank // ranks_per_node]


def host_names(node_list: str) -> list[str]:
    """`n[1-2]` -> n1, n2.

    Raises:
        SlurmError: Slurm does not answer.
    """
    return call(["scontrol", "show", "hostnames", node_list]).split()


def remaining(partition: str, excluded: Sequence[str]) -> int:
    """Nodes of a partition that are left, whatever state they are in.

    Args:
        partition: of the job.
        excluded: names.

    Raises:
        SlurmError: Slurm does not answer.
    """
    names = call(["sinfo", "--noheader", "--Node", "--format=%N", f"--partition={partition}"]).split()
    return len(set(names) - set(excluded))


def exclude(job: str, names: Sequence[str]) -> None:
    """A job in the queue will not get these nodes, nor those that it was to avoid already.

    Args:
        job: its id.
        names: of the nodes.

    Raises:
        SlurmError: Slurm refuses: the job does not stand in the queue.
    """
    call(["scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(names)}"])
