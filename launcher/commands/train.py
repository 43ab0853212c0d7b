"""`hexareme train`: validates the run, then starts its ranks."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...conf.cluster_schema import ClusterConfig, ClusterKind
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ..environment import FrontEnd, computes_fp16, read_environment
from ..hosts.hostfile import choose_hosts, read_hostfile
from ..hosts.start import attempt_hosts, job_of
from ..outcome import complain
from ..rank import run_rank
from ..supervisor import start_supervised, supervise
from ..watch.watcher import main as watch
from ..watch.watcher import validated


def require_submit(cluster: ClusterConfig, variables: Mapping[str, str]) -> None:
    """The ranks of `cluster=slurm` are started by Slurm, not by this process.

    Args:
        cluster: of the run.
        variables: as `os.environ`.

    Raises:
        ConfigError: with the way to start them.
    """
    if cluster.kind is ClusterKind.slurm:
        inside = f"inside of Slurm job {variables['SLURM_JOB_ID'][:20]}" if "SLURM_JOB_ID" in variables else "outside of Slurm"
        raise ConfigError([Problem("cluster.kind", cluster.kind, f"is started by Slurm, and this is one process {inside}",
                                   "write `hexareme submit` in place of `hexareme train`, or inside of an allocation "
                                   f"`srun --nodes={cluster.nodes} --ntasks-per-node={cluster.ranks_per_node} hexareme train ...`")])


def train_on_hosts(overrides: list[str], cluster: ClusterConfig) -> int:
    """Starts the ranks of `cluster=ssh`: nothing is sent to a host before hostfile and config are found right.

    Args:
        overrides: of the configuration.
        cluster: its section.

    Returns:
        The exit code of the first cause.
    """
    config = validated(overrides, cluster.nodes * cluster.ranks_per_node)
    path = Path(cluster.hostfile)
    hosts = choose_hosts(read_hostfile(path), nodes=cluster.nodes, ranks_per_node=cluster.ranks_per_node, path=path)
    job = job_of(config, overrides, [host.name for host in hosts])
    return supervise(partial(attempt_hosts, job), directory=job.directory, restarts=config.run.restarts)


def main(overrides: list[str]) -> int:
    """Starts cluster.ranks_per_node ranks on this machine; below torchrun, srun or mpirun it is itself one rank.

    Args:
        overrides: of the configuration.

    Returns:
        The exit code of the first cause (DESIGN.md 2.4).
    """
    try:
        if read_environment(os.environ).front_end is not FrontEnd.python:
            return watch(overrides, run_rank)
        cluster = compose("train", overrides).cluster
        require_submit(cluster, os.environ)
        if cluster.kind is ClusterKind.ssh:
            return train_on_hosts(overrides, cluster)
        ranks = int(cluster.ranks_per_node)
        config = validated(overrides, ranks, fp16=computes_fp16())
    except Exception as error:
        return complain(error, rank=0)
    return start_supervised(overrides, ranks=ranks, directory=Path(config.run.directory), restarts=config.run.restarts)
