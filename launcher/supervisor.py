"""`run.restarts=n`: above the ranks of a run; after a crash it starts them again, which go on from the last whole checkpoint.

    exit code          again  why
    0                  no     done
    1 error            yes    a device, a driver or a library may have failed once; our own bug runs into the limit below
    2 config           no     it reads the same the second time
    3 data             no     a damaged or missing corpus does not heal
    4 checkpoint       no     `checkpoint.resume=auto` has fallen back already as far as it may
    5 peer             yes    a host or a link was lost, or a rank hung
    6 numbers          yes    the same numbers may come right on a device that erred once; else the limit below
    7 storage          yes    a network disk comes back, a full disk is cleared
    8 folder in use    no     it belongs to somebody else
    9 port, meeting    yes    another port is chosen
    75 preempted       no     somebody asked it to stop
    128 + n            yes    killed by the kernel (out of memory), or a crash in native code
    128 + 1, 2, 10, 15 no     SIGHUP, SIGINT, SIGUSR1, SIGTERM: somebody asked it to stop

Whatever the code: never after a signal to this process, and not a fourth time without a newer checkpoint than before: what fails at the
same step three times more would fail for ever.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..conf.errors import ConfigError, Problem
from ..core.checkpoint.folder import step_folders, step_of
from ..core.checkpoint.manifest import MANIFEST
from ..core.errors import CheckpointError, FolderInUseError, Preempted
from ..data.errors import DataError
from .environment import Environment, FrontEnd
from .local import Attempt, StartFunction, attempt, start_program
from .outcome import SIGNAL_CODE, ExitFile, Outcome
from .watch.vigil import next_signal, watched_signals

MOST_FUTILE = 3  # restarts without progress
BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 1.0, 60.0
STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
FINAL = {0, ConfigError.exit_code, DataError.exit_code, CheckpointError.exit_code, FolderInUseError.exit_code, Preempted.exit_code,
         *(SIGNAL_CODE + number for number in STOPPING)}


def start_supervised(overrides: Sequence[str], *, ranks: int, directory: Path, restarts: int, start: StartFunction = start_program,  # noqa: PLR0913
                     backoff_seconds: float = BACKOFF_SECONDS) -> int:
    """Starts the ranks of this machine, and again after each crash. The exit code is the last attempt's.

    Args:
        overrides, ranks, directory, start: as in `local.attempt`.
        restarts: at most.
        backoff_seconds: before the first restart; doubled for each one without progress, up to a minute.
    """
    return supervise(partial(attempt, overrides, ranks=ranks, directory=directory, start=start), directory=directory, restarts=restarts,
                     backoff_seconds=backoff_seconds)


def supervise(once: Callable[[], Attempt], *, directory: Path, restarts: int, backoff_seconds: float = BACKOFF_SECONDS) -> int:
    """Runs attempts until one ends well, or another would not help.

    Args:
        once: starts all ranks and returns when the last process has ended.
        directory: of the run.
        restarts, backoff_seconds: as in `start_supervised`.

    Returns:
        The exit code of the last attempt; `exit.json` tells all of them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
    exit_file, patience = ExitFile(directory), Patience(restarts, newest_step(directory))
    told: list[dict[str, Any]] = []
    while True:
        ended = once()
        told.append(entry(ended))
        step = newest_step(directory)
        refusal = patience.refusal(ended.code, asked=ended.asked, step=step)
        if refusal is None:
            seconds = min(backoff_seconds * 2**patience.futile, LONGEST_BACKOFF_SECONDS)
            announce(ended, number=len(told), of=restarts, step=step, seconds=seconds)
            asked = asked_within(seconds)
            if asked is None:
                if exit_file.read() == ended.cause:  # else somebody has used the folder meanwhile
                    exit_file.clear(began=float("inf"))
                continue
            refusal = f"asked to stop by {asked.name} before the next attempt"
        if len(told) > 1:
            if ended.code != FolderInUseError.exit_code:  # else it is somebody else's
                exit_file.tell_attempts(told)
            conclude(ended, refusal, attempts=len(told))
        return ended.code


class Patience:
    """Whether another attempt may help. Pure.

    Args:
        restarts: at most.
        step: of the newest checkpoint before the first attempt.
    """

    def __init__(self, restarts: int, step: int) -> None:
        self.futile = 0  # restarts in a row that brought no newer checkpoint
        self._left, self._step = restarts, step
        self._restarted = False

    def refusal(self, code: int, *, asked: signal.Signals | None, step: int) -> str | None:
        """Why there is no other attempt; None where there is one, which then counts as made.

        Args:
            code: exit code of the attempt that ended.
            asked: a signal that somebody sent to the front end meanwhile.
            step: of the newest checkpoint now.
        """
        if step > self._step:
            self.futile = 0
        elif self._restarted:
            self.futile += 1
        self._step = max(step, self._step)
        if code in FINAL:
            return f"exit code {code} is not restarted"
        if asked is not None:
            return f"asked to stop by {asked.name}"
        if self.futile >= MOST_FUTILE:
            return f"{self.futile} restarts brought no checkpoint after step {self._step}"
        if self._left == 0:
            return "run.restarts is used up"
        self._left -= 1
        self._restarted = True
        return None


def require_supervisor(restarts: int, environment: Environment) -> None:
    """For a rank: `run.restarts` is no empty promise.

    Args:
        restarts: of the config.
        environment: of the rank.

    Raises:
        ConfigError: ranks shall be started again, and nobody is there who would.
    """
    if restarts and not environment.supervised:
        foreign = environment.front_end in (FrontEnd.torchrun, FrontEnd.deepspeed, FrontEnd.open_mpi, FrontEnd.slurm)
        above = f"{environment.front_end} starts the ranks" if foreign else "this is one process by itself"
        raise ConfigError([Problem("run.restarts", restarts, f"needs `hexareme train` above the ranks, but {above}",
                                   "start the run by `hexareme train`, or set run.restarts=0" +
                                   (" and let torchrun --max-restarts do it" if environment.front_end is FrontEnd.torchrun else ""))])


def newest_step(directory: Path) -> int:
    """The step of the newest committed checkpoint of a run, by name; 0 without one."""
    committed = (folder for folder in step_folders(directory / "checkpoints") if (folder / MANIFEST).exists())
    newest = next(committed, None)
    return 0 if newest is None else step_of(newest.name) or 0


def entry(ended: Attempt) -> dict[str, Any]:
    """One attempt in `exit.json`."""
    return {"code": ended.code} | {key: ended.cause.get(key) for key in ("reason", "rank", "step")}


def announce(ended: Attempt, *, number: int, of: int, step: int, seconds: float) -> None:
    """One line on the console."""
    place = f"step {step}" if step else "the beginning: there is no checkpoint yet"
    what = " ".join(str(ended.cause.get("what") or "no cause is known").split())[:200]
    sys.stderr.write(f"RESTART {number} of {of} in {seconds:.0f} s, from {place}: exit code {ended.code}, rank {ended.cause.get('rank')}, "
                     f"step {ended.cause.get('step')}: {what}\n")


def conclude(ended: Attempt, refusal: str, *, attempts: int) -> None:
    """The last line on the console: after several attempts the error line above tells only of the last."""
    if ended.code != 0:
        cause = ended.cause
        outcome = Outcome(code=ended.code, reason=str(cause.get("reason")), rank=cause.get("rank") or 0, step=cause.get("step") or 0,
                          what=f"{cause.get('what') or 'no cause is known'}; no more after {attempts} attempts: {refusal}",
                          do=str(cause.get("do") or "read the ranks' logs"))
        sys.stderr.write(outcome.line() + "\n")


def asked_within(seconds: float) -> signal.Signals | None:
    """Waits; the signal that somebody sent to this process meanwhile, which ends the waiting."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        caught = next_signal(watched_signals(), left)
        if caught is not None:
            return caught
    return None
