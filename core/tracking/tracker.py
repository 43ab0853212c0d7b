"""The training process's side of tracking: starts the follower, and ends it. Imports no tracking library."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .secrets import without_secrets
from .settings import FollowerSettings

ONLINE_TIMEOUT = 30.0  # seconds the follower may take to hand over the rest to a slow server
OFFLINE_TIMEOUT = 15.0  # seconds for the rest to reach the disk; mostly the import of wandb in a very short run
MARGIN = 2.0  # seconds between the follower's own end and the kill


class Tracker:
    """Feeds W&B and TensorBoard from `metrics.jsonl`, in one other process that training neither waits for nor depends on.

    The training loop only writes `metrics.jsonl`. The follower reads that file, so a server that is slow, broken or gone costs the run
    nothing, and what was not sent yet is still in the file. The follower lives as long as the pipe to its standard input: when this
    process dies, however it dies, the follower drains what it can and ends within seconds.

    Only rank 0 makes one. Make it after `MetricsLog.cut_after`.

    Args:
        run_directory: the run's folder, with `metrics.jsonl`.
        wandb_mode: online, offline or disabled.
        project, entity, run_name: as W&B shows the run.
        tensorboard: also write event files to `<run_directory>/tensorboard`.
        config: the resolved config as plain values; secrets are masked here.
    """

    def __init__(self, run_directory: Path | str, *, wandb_mode: str, project: str = "hexareme", entity: str = "",  # noqa: PLR0913
                 run_name: str = "", tensorboard: bool = False, config: dict[str, Any]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._online = wandb_mode == "online"
        if wandb_mode == "disabled" and not tensorboard:
            return
        settings = FollowerSettings(wandb=wandb_mode, project=project, entity=entity, run_name=run_name, tensorboard=tensorboard,
                                    config=without_secrets(config))
        # -P: a folder `wandb` or `core` in the working directory must not be imported. A new session: Ctrl-C in the terminal and a
        # signal to the rank's group are for training; the follower ends after it. Its messages go to our standard error.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hexareme.core.tracking.follower", str(Path(run_directory).resolve())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        _tell(self._process, settings.to_line())

    @property
    def pid(self) -> int | None:
        """Process id of the follower; None where there is none."""
        return None if self._process is None else self._process.pid

    def close(self, timeout: float | None = None, *, exit_code: int = 0) -> bool:
        """Let the follower hand over the rest and end; kill it if it takes too long.

        Args:
            timeout: most seconds to wait; None: 30 for W&B online, else 15.
            exit_code: how the run ended, for W&B.

        Returns:
            Whether the follower ended by itself.
        """
        if self._process is None:
            return True
        process, self._process = self._process, None
        if timeout is None:
            timeout = ONLINE_TIMEOUT if self._online else OFFLINE_TIMEOUT
        _tell(process, f"finish {max(0.0, timeout - MARGIN)} {exit_code}\n".encode())
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        return process.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(exit_code=0 if error is None else getattr(error, "exit_code", 1))


def _tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Write to the follower; one that has ended is no reason for training to end."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.flush()
