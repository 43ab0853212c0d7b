"""`hexareme submit action=status|cancel|logs`: what Slurm and the run folder know of a job. Needs no accounting database."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...conf.errors import ConfigError, Problem
from ..outcome import ExitFile, last_step
from ..supervisor import newest_step
from .history import ENDED, STARTED, SUBMITTED, History
from .tools import SlurmError, call, is_job, show_job

LOG_LINES = 50
FORGOTTEN = "FORGOTTEN"  # Slurm drops a job that ended some minutes ago, unless it keeps accounts
SHOWN = ("JobState", "Reason", "NodeList", "ExcNodeList", "RunTime", "TimeLimit", "StartTime", "Restarts")


def job_of(job: str, directory: Path) -> str:
    """The id of the job that is meant.

    Args:
        job: as the user gave it; empty: the last one of the run.
        directory: of the run.

    Raises:
        ConfigError: it is no id, or the run was never submitted.
    """
    if job and not is_job(job):
        raise ConfigError([Problem("job", job, "is no job id", "give the number that `hexareme submit` printed")])
    known = [str(row["job"]) for row in History(directory).rows() if row.get("event") == SUBMITTED and is_job(str(row.get("job", "")))]
    if not job and not known:
        raise ConfigError([Problem("run.directory", str(directory), "was not submitted to Slurm", "give job=<id>, or the run's folder")])
    return job or known[-1]


def status(job: str, directory: Path) -> dict[str, Any]:
    """What is known of a job and its run."""
    found: dict[str, Any] = {"job": job, "JobState": FORGOTTEN}
    with suppress(SlurmError):
        shown = show_job(job)
        found |= {name: shown[name] for name in SHOWN if name in shown}
    return found | {"step": last_step(directory), "checkpoint": newest_step(directory), "exit": ExitFile(directory).read(),
                    "starts": starts(History(directory).rows(), job)}


def starts(rows: Sequence[Mapping[str, Any]], job: str) -> list[dict[str, Any]]:
    """Each start of a job with its end. Pure.

    Args:
        rows: of a history.
        job: its id.
    """
    found: list[dict[str, Any]] = []
    for row in rows:
        if str(row.get("job")) != job:
            continue
        if row.get("event") == STARTED:
            found.append({"restart": row.get("restart"), "nodes": row.get("nodes"), "from_step": row.get("step"), "to_step": None,
                          "code": None, "why": "has not ended, or its first node was lost"})
        elif row.get("event") == ENDED and found:
            found[-1] |= {"code": row.get("code"), "to_step": row.get("step"), "why": row.get("why")}
    return found


def as_text(found: Mapping[str, Any]) -> str:
    """The status as people read it."""
    lines = [f"job {found['job']}: " + ", ".join(f"{name} {found[name]}" for name in SHOWN if found.get(name))]
    lines += [f"  start {each['restart']} on {each['nodes']}: step {each['from_step']} -> {each['to_step']}, exit code {each['code']} "
              f"({each['why']})" for each in found["starts"]]
    lines.append(f"  last step {found['step']}, newest checkpoint {found['checkpoint']}")
    if found["exit"]:
        lines.append(f"  ended with exit code {found['exit'].get('code')}: {found['exit'].get('reason')}")
    return "\n".join(lines)


def cancel(job: str) -> str:
    """Ends a job. Its ranks save first, as far as Slurm's KillWait lets them.

    Raises:
        SlurmError: Slurm refuses.
    """
    call(["scancel", "--quiet", job])
    return f"job {job} is cancelled; the run saves if Slurm gives it the time, and can be submitted again"


def log_of(job: str, directory: Path) -> Path:
    """Where a job prints.

    Raises:
        ConfigError: nothing is there.
    """
    path = History(directory).path.with_name(f"job-{job}.log")
    if not path.exists():
        raise ConfigError([Problem("job", job, f"has printed nothing yet: there is no {path}", "wait for its start: action=status tells")])
    return path


def last_lines(path: Path, count: int = LOG_LINES) -> str:
    """The end of a log."""
    with path.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - (1 << 16)))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])
