"""Which machines a run can ask for: what Slurm would misread is refused before it is asked. Pure."""

import re
from collections.abc import Iterator

from ..conf.cluster_schema import ClusterConfig, ClusterKind
from ..conf.errors import Problem
from ..conf.schema import Config

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
# Key -> what it may look like, and an example. Each becomes a line of the batch script; none may say anything else there.
FORMS = {
    "partition": (rf"{NAME}(,{NAME})*", "gpu"),
    "account": (NAME, "physics"),
    "qos": (NAME, "high"),
    "constraint": (r"[A-Za-z0-9_][A-Za-z0-9_.&|,*()\[\]-]*", "a100"),
    "exclude": (r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*", "n[3,7-9]"),
    "time_limit": (r"\d{1,9}|\d+:\d{1,2}(:\d{1,2})?|\d+-\d{1,2}(:\d{1,2}){0,2}", "1-12:00:00"),
    "memory": (r"[1-9]\d{0,9}[KMGT]?", "64G"),
}
UNSAFE_PATH = r"[\x00-\x1f\x7f\\%]"  # what sbatch does not take letter by letter in --output


def cluster_rules(config: Config) -> Iterator[Problem]:
    """A local run has one machine; what Slurm reads must have Slurm's form."""
    cluster = config.cluster
    if cluster.kind is ClusterKind.local and cluster.nodes > 1:
        yield Problem("cluster.nodes", cluster.nodes, "is more than one machine, and cluster=local is this one",
                      "set cluster.nodes=1, or start launcher/train.py by deepspeed, torchrun or srun, which know many hosts")
    for key, (form, example) in FORMS.items():
        value = getattr(cluster, key)
        if value and not re.fullmatch(form, value):
            yield Problem(f"cluster.{key}", value, "is not of Slurm's form", f"write it as in cluster.{key}={example}")
    if cluster.kind is ClusterKind.slurm:
        yield from slurm_rules(config, cluster)


def slurm_rules(config: Config, cluster: ClusterConfig) -> Iterator[Problem]:
    """The signal must come inside of the time, and the log's path must be one that Slurm takes letter by letter."""
    limit = seconds_of(cluster.time_limit)
    if limit and cluster.signal_seconds >= limit:
        yield Problem("cluster.signal_seconds", cluster.signal_seconds, f"is not less than cluster.time_limit={cluster.time_limit} "
                      f"({limit} s)", f"set cluster.signal_seconds={max(1, limit // 10)}")
    if re.search(UNSAFE_PATH, config.run.directory):
        yield Problem("run.directory", config.run.directory, "has a backslash, a percent sign or a control character, and Slurm changes "
                      "those in the path of a log", "choose another folder")


def seconds_of(limit: str) -> int:
    """Slurm's time limit as `minutes[:seconds]`, `hours:minutes:seconds` or `days-hours[:minutes[:seconds]]`; 0 where it is no time."""
    if not re.fullmatch(FORMS["time_limit"][0], limit):
        return 0
    days, dash, rest = limit.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) == 3:
        return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)
