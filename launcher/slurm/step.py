"""One srun of all ranks: started, told to stop where somebody asks, and judged by what the ranks say."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.errors import Preempted
from ..folder.lock_record import FILE_NAME, read_holder
from ..local import LOOK_SECONDS, Attempt
from ..outcome import IN_USE_CODE, ExitFile, last_step
from ..watch.vigil import next_signal, watched_signals

TASK_MODULE = "hexareme.launcher.slurm.task"
SAVED_SECONDS = 30.0  # for the ranks to end after their own grace
KILLED_SECONDS = 60.0  # for srun to end after it was asked to kill its step
EXIT_FILE_SECONDS = 5.0  # for a network disk to show what another node has written
AGAIN_SECONDS = 5.0  # a request that came before the tasks could take it is made again


def srun_words(overrides: Sequence[str], *, nodes: int, ranks_per_node: int, cpus_per_rank: int, python: str = sys.executable) -> list[str]:
    """The command: one task a rank, all ended with the first that fails."""
    cpus = [f"--cpus-per-task={cpus_per_rank}"] if cpus_per_rank else []  # srun does not take it from sbatch
    return ["srun", f"--nodes={nodes}", f"--ntasks={nodes * ranks_per_node}", f"--ntasks-per-node={ranks_per_node}", *cpus,
            "--kill-on-bad-exit=1", "--input=none", python, "-P", "-m", TASK_MODULE, *overrides]


class Step:
    """One step of a job.

    Args:
        words: of `srun_words`.
        variables: the environment.
        directory: of the run.
        grace_seconds: for the ranks to save.
        superseded: whether Slurm has started the job anew elsewhere, so that these ranks must give way.
    """

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], directory: Path, *, grace_seconds: float,
                 superseded: Callable[[], bool] = lambda: False) -> None:
        self._words, self._variables, self._directory = list(words), dict(variables), directory
        self._grace, self._superseded = grace_seconds, superseded
        self._asked: signal.Signals | None = None
        self._asked_at = self._told_at = 0.0

    def run(self) -> Attempt:
        """Stays until srun has ended."""
        before, holder = identity(self._directory), living_token(self._directory)
        srun = subprocess.Popen(self._words, env=self._variables, stdin=subprocess.DEVNULL, preexec_fn=unblocked)  # noqa: PLW1509
        while (status := srun.poll()) is None:
            caught = next_signal(watched_signals(), LOOK_SECONDS)
            if caught is None and self._asked is None and self._superseded():
                caught = signal.SIGUSR1
            if caught is not None and self._asked is None:
                self._asked, self._asked_at = caught, time.monotonic()
            self._press(srun)
        if holder and living_token(self._directory) == holder:  # what exit.json says is of somebody else
            return Attempt(code=IN_USE_CODE, asked=self._asked, cause={"code": IN_USE_CODE, "reason": "folder_in_use", "rank": 0})
        return self._judge(exit_code_of(status), before)

    def _press(self, srun: "subprocess.Popen[bytes]") -> None:
        """Passes the request on. Only SIGUSR1 reaches the tasks through srun: of SIGTERM it makes a SIGKILL."""
        if self._asked is None:
            return
        waited = time.monotonic() - self._asked_at
        if waited > self._grace + SAVED_SECONDS + KILLED_SECONDS:
            srun.kill()
        elif waited > self._grace + SAVED_SECONDS:
            srun.terminate()
        elif time.monotonic() - self._told_at > AGAIN_SECONDS:
            self._told_at = time.monotonic()
            with suppress(ProcessLookupError):
                srun.send_signal(signal.SIGUSR1)

    def _judge(self, code: int, before: tuple[int, int] | None) -> Attempt:
        """The first cause by `exit.json`, where this attempt has written one; else by srun's own code."""
        deadline = time.monotonic() + EXIT_FILE_SECONDS
        while identity(self._directory) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        told = (ExitFile(self._directory).read() or {}) if identity(self._directory) != before else {}
        return Attempt(code=true_code(code, told), asked=self._asked,
                       cause=told if told.get("code") == true_code(code, told) else said_by_srun(code, last_step(self._directory)))


def true_code(code: int, told: Mapping[str, Any]) -> int:
    """The exit code of the first cause. Pure.

    Args:
        code: of srun: the greatest of all tasks, those included that it ended itself.
        told: by this attempt's `exit.json`; empty where there is none.
    """
    said = told.get("code")
    if not isinstance(said, int) or isinstance(said, bool):
        return code or 1  # no rank could say how it ended
    return said if said != 0 else code


def said_by_srun(code: int, step: int) -> dict[str, Any]:
    """What stands in for `exit.json`."""
    return {"code": code or 1, "reason": "error", "rank": None, "step": step, "what": f"srun ended with exit code {code}, and no rank "
            "could say why", "do": "read the job's log: a node may have failed"}


def living_token(directory: Path) -> str:
    """Of the attempt that holds a run folder and has not let go; empty where nobody does."""
    try:
        found = read_holder(directory / FILE_NAME)
    except OSError:
        return ""
    return "" if found is None or found.ended else found.token


def identity(directory: Path) -> tuple[int, int] | None:
    """Of `exit.json`, to tell a new one from an old one."""
    with suppress(OSError):
        status = (directory / "exit.json").stat()
        return status.st_ino, status.st_mtime_ns
    return None


def exit_code_of(status: int) -> int:
    """Of a child as `subprocess` gives it: 128 + n for a death by signal n."""
    return status if status >= 0 else 128 - status


def unblocked() -> None:
    """srun takes signals itself."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def preempted(ended: Attempt) -> bool:
    """Whether an attempt was asked to stop, by anybody, and has saved or was ended on the way."""
    return ended.code == Preempted.exit_code or (ended.asked is not None and ended.code != 0)
