"""`hexareme submit`: the whole config is checked, then Slurm gets the script."""

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
from ..watch.watcher import validated
from .history import SUBMITTED, History
from .script import Job, render
from .tools import call

SCRIPT_NAME = "job.sh"


@dataclass(frozen=True)
class Submission:
    """What was given to Slurm.

    Args:
        job: its id.
        script: the file.
        log: where the job prints.
    """

    job: str
    script: Path
    log: Path


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
    checked = validated(words, config.cluster.nodes * config.cluster.ranks_per_node)
    folder = Path.cwd()
    if set(str(folder)) & set("\\\n\r\t"):
        raise ConfigError([Problem("run.directory", str(folder), "is below a folder whose name Slurm would change", "submit elsewhere")])
    return Job(name=checked.run.name, directory=checked.run.directory, working_folder=folder, python=sys.executable, overrides=words)


def submit(job: Job, config: SubmitConfig) -> Submission:
    """Writes the script into the run folder and gives it to Slurm.

    Raises:
        SlurmError: Slurm refuses it.
        OSError: the run folder cannot be written.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    script = job.folder / SCRIPT_NAME
    script.write_text(render(job, config.cluster))
    number = call(["sbatch", "--parsable", str(script)]).strip().partition(";")[0]
    History(job.folder.parent).add(SUBMITTED, {"job": number})
    return Submission(number, script, job.folder / f"job-{number}.log")


def report(made: Submission, directory: str) -> str:
    """What the user is told."""
    name = shlex.quote(f"run.directory={directory}")
    return (f"job {made.job}\nscript {made.script}\nlog {made.log}\n"
            f"`hexareme submit action=status {name}` tells how it goes; logs and cancel are actions too")
