"""What `cluster=ssh` needs, and what may become a word of a command on the hosts. Pure."""

import re
from collections.abc import Iterator

from ..conf.cluster_schema import ClusterConfig
from ..conf.errors import Problem

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*\*?"
INTERFACE = r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,14}"


def ssh_rules(cluster: ClusterConfig) -> Iterator[Problem]:
    """Problems of the keys that reach ssh or the hosts.

    Args:
        cluster: of a run whose hosts are reached by ssh.
    """
    if not cluster.hostfile:
        yield Problem("cluster.hostfile", "???", "is needed by cluster=ssh", "name a file of `host slots=n` lines")
    if cluster.interface and not re.fullmatch(INTERFACE, cluster.interface):
        yield Problem("cluster.interface", cluster.interface, "is no name of a network interface", "see `ip link`, as in eth0")
    for key in ("python", "folder", "ssh_config"):
        value = getattr(cluster, key)
        if value.startswith("-") or not value.isprintable():
            yield Problem(f"cluster.{key}", value, "begins with - or has a control character", "write its absolute path")
    for name in cluster.environment:
        if not re.fullmatch(VARIABLE, name):
            yield Problem("cluster.environment", name, "is no name of a variable", "write [NCCL_*, HF_HOME]: names, or NAME_* for all that "
                          "begin so; their values are taken from this shell")
