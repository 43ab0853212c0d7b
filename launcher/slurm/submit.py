"""`hexareme submit`: the whole config is checked, then Slurm gets the script."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...conf.cluster_schema import ClusterKind
from ...conf.errors import ConfigError, Problem
from ...conf.keys import table
from ...conf.schema import Config
from ...conf.submit_schema import SubmitConfig
from ...core.cluster_rules import UNSAFE_PATH
from ..watch.watcher import validated
from .history import SUBMITTED, History
from .script import Job, render
from .sweep import members
from .tools import call

SCRIPT_NAME = "job.sh"


@dataclass(frozen=True)
class Submission:
    """What was given to Slurm.

    Args:
        jobs: their ids; several only where they follow one another.
        script: the file.
        logs: where each of them prints; of an array, each of its members.
    """

    jobs: list[str]
    script: Path
    logs: list[Path]


def own_keys() -> set[str]:
    """The keys that submit has and train has not."""
    return set(table(SubmitConfig)) - set(table(Config))


def run_overrides(overrides: Sequence[str]) -> list[str]:
    """Those that train understands too."""
    own = own_keys()
    return [word for word in overrides if word.lstrip("+").partition("=")[0] not in own]


def prepared(config: SubmitConfig, overrides: Sequence[str]) -> Job:
    """The job of a config that can run.

    Raises:
        ConfigError: with everything that is wrong, before Slurm is asked.
        DataError: a corpus is missing, and nothing else is wrong.
    """
    if config.cluster.kind is not ClusterKind.slurm:
        raise ConfigError([Problem("cluster.kind", config.cluster.kind, "is not what submit is for", "add cluster=slurm")])
    words = run_overrides(overrides)
    runs = members(config.sweep, name=config.run.name, directory=config.run.directory)
    ranks = config.cluster.nodes * config.cluster.ranks_per_node
    checked, *_ = [validated([*words, *each], ranks) for each in runs or [[]]]
    folder = Path.cwd()
    if re.search(UNSAFE_PATH, str(folder)):
        raise ConfigError([Problem("run.directory", str(folder), "is below a folder whose name Slurm would change", "submit elsewhere")])
    return Job(name=config.run.name if runs else checked.run.name, directory=config.run.directory if runs else checked.run.directory,
               working_folder=folder, python=sys.executable, overrides=words, members=runs)


def submit(job: Job, config: SubmitConfig) -> Submission:
    """Writes the script into the run folder and gives it to Slurm.

    Raises:
        SlurmError: Slurm refuses it.
        OSError: the run folder cannot be written.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    script = job.folder / SCRIPT_NAME
    script.write_text(render(job, config.cluster))
    numbers: list[str] = []
    for _ in range(config.chain):
        after = [f"--dependency=afterany:{numbers[-1]}"] if numbers else []
        numbers.append(call(["sbatch", "--parsable", *after, str(script)]).strip().partition(";")[0])
        for name, directory in folders(job, numbers[-1]).items():
            History(directory).add(SUBMITTED, {"job": name})
    names = [f"job-{number}" for number in numbers]
    if job.members:
        names = [f"job-{number}_{member}" for number in numbers for member in range(len(job.members))]
    return Submission(numbers, script, [job.folder / f"{name}.log" for name in names])


def folders(job: Job, number: str) -> dict[str, Path]:
    """The run folder of a job; those of an array's members by their own ids.

    Args:
        job: what was submitted.
        number: Slurm's id for it.
    """
    own = job.folder.parent
    return {number: own} | {f"{number}_{member}": own.with_name(f"{own.name}-{member}") for member in range(len(job.members))}


def report(made: Submission, directory: str) -> str:
    """What the user is told."""
    name = shlex.quote(f"run.directory={directory}")
    lines = [*(f"job {number}" for number in made.jobs), f"script {made.script}", *(f"log {log}" for log in made.logs)]
    return "\n".join([*lines, f"`hexareme submit action=status {name}` tells how it goes; logs and cancel are actions too"])
