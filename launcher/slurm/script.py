"""A config as a batch script that people can read. Pure: no file and no Slurm is touched."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...conf.cluster_schema import ClusterConfig

FOLDER = "slurm"  # in the run folder: scripts, logs, history
JOB_MODULE = "hexareme.launcher.slurm.job"
PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the script starts.

    Args:
        name: of the run.
        directory: of the run; relative to `working_folder` or absolute.
        working_folder: where the command was typed.
        python: the interpreter, at the same path on all nodes.
        overrides: of the run, as on the command line.
        members: of a sweep: the overrides of each run; empty: one run.
    """

    name: str
    directory: str
    working_folder: Path
    python: str
    overrides: Sequence[str]
    members: Sequence[Sequence[str]] = ()

    @property
    def folder(self) -> Path:
        """Where Slurm's files of this run lie."""
        return self.working_folder / self.directory / FOLDER


def render(job: Job, cluster: ClusterConfig) -> str:
    """The whole batch script.

    Args:
        job: what it starts.
        cluster: checked by `core.cluster_rules`.
    """
    ranks = cluster.nodes * cluster.ranks_per_node
    lines = [
        "#!/bin/bash",
        f"# Written by `hexareme submit`: {ranks} ranks on {cluster.nodes} nodes. `sbatch` on this file submits it again.",
        *(f"#SBATCH {option}" for option in options(job, cluster)),
        "",
        "# Slurm signals this process alone, and the program below passes it on; before it can, no signal may end the shell.",
        "trap '' USR1 TERM HUP INT",
        "",
        "overrides=(",
        *(f"  {shlex.quote(override)}" for override in job.overrides),
        ")",
        *sweep_lines(job.members),
        "",
        f"exec {shlex.quote(job.python)} -P -m {JOB_MODULE} \"${{overrides[@]}}\"",
    ]
    return "\n".join(lines) + "\n"


def options(job: Job, cluster: ClusterConfig) -> Iterator[str]:
    """sbatch's options, one a line."""
    yield f"--job-name={job_name(job.name)}"
    yield f"--nodes={cluster.nodes}"
    yield f"--ntasks-per-node={cluster.ranks_per_node}"
    given = {"cpus-per-task": cluster.cpus_per_rank, "gpus-per-node": cluster.gpus_per_node, "mem": cluster.memory,
             "partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "constraint": cluster.constraint,
             "exclude": cluster.exclude, "time": cluster.time_limit}
    yield from (f"--{name}={slurm_quote(str(value))}" for name, value in given.items() if value)
    yield f"--signal=B:USR1@{cluster.signal_seconds}"
    yield "--requeue" if cluster.requeue else "--no-requeue"
    yield "--open-mode=append"
    if job.members:
        yield f"--array=0-{len(job.members) - 1}"
    yield f"--chdir={slurm_quote(str(job.working_folder))}"
    yield f"--output={slurm_quote(log_pattern(job))}"


def log_pattern(job: Job) -> str:
    """Where Slurm writes what the job prints; `%j` is the job's number; the folder's own name has no `%`."""
    return str(job.folder) + ("/job-%A_%a.log" if job.members else "/job-%j.log")


def sweep_lines(members: Sequence[Sequence[str]]) -> list[str]:
    """What sets the runs of an array apart."""
    if not members:
        return []
    cases = [f"  {number}) overrides+=({' '.join(map(shlex.quote, member))}) ;;" for number, member in enumerate(members)]
    return ["", 'case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]


def job_name(run: str) -> str:
    """A name that `squeue` shows as it is: of any run's name, what is plain in it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", run)[:64] or "hexareme"


def slurm_quote(value: str) -> str:
    """A value as sbatch reads it letter by letter in a #SBATCH line; it has no newline. Tried on Slurm 22.05: a backslash before a blank
    does not keep the blank, quotes do."""
    if PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
