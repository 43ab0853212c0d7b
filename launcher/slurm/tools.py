"""Slurm's own programs, called by lists of words: never by a shell."""

import re
import shutil
import subprocess
from collections.abc import Sequence

from ...core.errors import RunError

TOOL_SECONDS = 60.0  # a controller that restarts answers late; sbatch and scontrol try for a while by themselves


class SlurmError(RunError):
    """Slurm is not there, or has refused: what was asked for does not exist here."""

    exit_code = 2


def call(words: Sequence[str], *, seconds: float = TOOL_SECONDS) -> str:
    """What one of Slurm's programs prints.

    Args:
        words: its name and its arguments.
        seconds: it may take.

    Raises:
        SlurmError: it is missing, takes too long, or ends with an error.
    """
    if shutil.which(words[0]) is None:
        raise SlurmError(f"there is no `{words[0]}` on the PATH", do="run this where Slurm is installed, as on a login node")
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"`{words[0]}` has not answered within {seconds:.0f} s", do="see `scontrol ping`") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:500] or f"exit code {done.returncode}"
        raise SlurmError(f"`{' '.join(words[:2])}` failed: {said}", do="mend the cluster.* key that Slurm names, or ask `sinfo`")
    return done.stdout


def show_job(job: str) -> dict[str, str]:
    """What `scontrol show job` says of a job.

    Args:
        job: its id.

    Raises:
        SlurmError: Slurm does not know it any more.
    """
    return fields_of(call(["scontrol", "--oneliner", "show", "job", job]).splitlines()[0])


def fields_of(line: str) -> dict[str, str]:
    """`A=1 B=two words C=3` -> a dictionary; a word without `=` belongs to the value before it."""
    found: dict[str, str] = {}
    name = ""
    for word in line.split():
        key, equals, value = word.partition("=")
        if equals and key.replace("/", "").replace(":", "").replace("_", "").isalnum():
            name, found[key] = key, value
        elif name:
            found[name] += f" {word}"
    return found


def is_job(text: str) -> bool:
    """Whether a text is a job's id: `12`, or `12_3` of an array."""
    return re.fullmatch(r"[0-9]+(_[0-9]+)?", text) is not None
