"""Asks each machine of a run for its facts: this one, the hosts by ssh, or the nodes that Slurm gives, all at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...conf.cluster_schema import ClusterKind
from ...conf.doctor_schema import DoctorConfig
from ...core.errors import RunError
from ..hosts.hostfile import choose_hosts, read_hostfile
from ..hosts.ssh import Ssh
from .finding import Finding, Level
from .survey import HEAD, Request, command, survey

ANSWER_SECONDS = 90.0  # one survey takes at most two thirds of it
QUEUE_SECONDS = 60  # for Slurm to give nodes to somebody who only looks

Answer = dict[str, Any] | Finding


def ask(config: DoctorConfig, request: Request) -> Sequence[Answer]:
    """The facts of each machine, or a finding for one that does not answer.

    Args:
        config: which machines.
        request: what they are asked.

    Raises:
        ConfigError: the hostfile cannot be used.
        RunError: Slurm gives no nodes.
    """
    cluster = config.cluster
    if cluster.kind is ClusterKind.local:
        return [survey(request)]
    if cluster.kind is ClusterKind.slurm:
        return _by_slurm(config, request)
    path = Path(cluster.hostfile)
    hosts = choose_hosts(read_hostfile(path), nodes=cluster.nodes, ranks_per_node=cluster.ranks_per_node, path=path)
    python = cluster.python or sys.executable
    ssh = Ssh(python=python, port=cluster.ssh_port, config_file=cluster.ssh_config, connect_seconds=cluster.connect_timeout,
              silence_seconds=cluster.link_timeout)
    words = command(request, python)
    return _answers({host.name: ssh.arguments(host.name, words) for host in hosts})


def _by_slurm(config: DoctorConfig, request: Request) -> Sequence[Answer]:
    """One task on each node, of this allocation or of one for a moment."""
    cluster = config.cluster
    words = ["srun", f"--nodes={cluster.nodes}", f"--ntasks={cluster.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--overlap"]
    if "SLURM_JOB_ID" not in os.environ:
        words = [word for word in words if word != "--overlap"] + [f"--immediate={QUEUE_SECONDS}", "--job-name=hexareme-doctor"]
        for name in ("partition", "account", "qos", "constraint", "exclude"):
            words += [f"--{name}={getattr(cluster, name)}"] if getattr(cluster, name) else []
        words += [f"--cpus-per-task={cluster.cpus_per_rank * cluster.ranks_per_node}"] if cluster.cpus_per_rank else []
        words += [f"--gpus-per-node={cluster.gpus_per_node}"] if cluster.gpus_per_node else []
    try:
        done = subprocess.run([*words, *command(request, sys.executable)], capture_output=True, text=True, errors="replace", check=False,
                              timeout=ANSWER_SECONDS + QUEUE_SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise RunError("there is no `srun` on the PATH", do="run this where Slurm is installed, as on a login node") from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"no answer within {ANSWER_SECONDS + QUEUE_SECONDS:.0f} s", do="see `squeue` and `sinfo`") from error
    found: list[Answer] = list(_surveys(done.stdout))
    if len(found) < cluster.nodes:
        said = " ".join(done.stderr.split())[:300] or "srun said nothing"
        found.append(Finding("answer", Level.error, f"{cluster.nodes - len(found)} of {cluster.nodes} nodes have not answered: {said}",
                             "see `sinfo` for nodes that are down, and leave them out by cluster.exclude"))
    return found


def _answers(commands: dict[str, list[str]]) -> list[Answer]:
    """Of one command for each host, all at once."""
    running = {host: subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                                      errors="replace", start_new_session=True) for host, words in commands.items()}
    deadline = time.monotonic() + ANSWER_SECONDS
    found: list[Answer] = []
    for host, process in running.items():
        try:
            out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err = f"no answer within {ANSWER_SECONDS:.0f} s; {err}"
        surveys = list(_surveys(out))
        found += surveys
        if not surveys:
            found.append(Finding("answer", Level.error, f"{host} does not answer: {' '.join(err.split())[:200]}",
                                 f"try `ssh {host}` by hand, or leave it out of the hostfile", (host,)))
    return found


def _surveys(out: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(HEAD)) for line in out.splitlines() if line.startswith(HEAD)]
