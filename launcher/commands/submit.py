"""`hexareme submit`: a training run as a Slurm job, and what became of it."""

import json
from pathlib import Path

from ...conf.compose import compose
from ...conf.submit_schema import SubmitAction, SubmitConfig
from ..slurm.jobs import as_text, cancel, job_of, last_lines, log_of, status
from ..slurm.script import render
from ..slurm.submit import prepared, report, submit


def main(overrides: list[str]) -> int:
    """Checks the config as `hexareme train` does, then submits it; or tells of the job, or ends it.

    Returns:
        0.

    Raises:
        ConfigError, DataError: the run could not start, or was not submitted.
        SlurmError: Slurm is missing or refuses.
    """
    config = compose("submit", overrides)
    assert isinstance(config, SubmitConfig)
    if config.action is SubmitAction.submit:
        return start(config, overrides)
    directory = Path(config.run.directory)
    job = job_of(config.job, directory)
    if config.action is SubmitAction.status:
        found = status(job, directory)
        print(as_text(found))
        if config.output:
            Path(config.output).write_text(json.dumps(found, indent=1) + "\n")
    elif config.action is SubmitAction.cancel:
        print(cancel(job))
    else:
        path = log_of(job, directory)
        print(f"{path}:\n{last_lines(path)}")
    return 0


def start(config: SubmitConfig, overrides: list[str]) -> int:
    """Submits a run, or shows what would be submitted."""
    job = prepared(config, overrides)
    if config.dry_run:
        print(render(job, config.cluster), end="")
        return 0
    made = submit(job, config)
    print(report(made, job.directory))
    if config.output:
        told = {"jobs": made.jobs, "script": str(made.script), "logs": [str(log) for log in made.logs]}
        Path(config.output).write_text(json.dumps(told) + "\n")
    return 0
