"""Weights & Biases, online or offline. The only module that imports wandb, and it runs only in the follower."""

import secrets
import time
from pathlib import Path
from typing import Literal

import wandb

from .notices import Notices
from .settings import FollowerSettings
from .sink import Logged
from .transaction_log import history

RETRY_SECONDS = 60.0  # between attempts to reach a server that does not answer
FIRST_ATTEMPT_SECONDS = 10.0
LONGEST_ATTEMPT_SECONDS = 90.0
OFFLINE_SECONDS = 8.0  # kept free at the end to write the run to the disk instead
FLUSH_SECONDS = 1.0  # how much of an offline run SIGKILL may cost; a resume fills it in from metrics.jsonl


class WandbSink:
    """One W&B run, whose id stays in `<run>/wandb/run_id` so that a resume goes on in the same one.

    Online, the run begins when the server answers: until then nothing is sent and nothing is lost, for the rows stay in the metrics
    file. If it never answers, everything is written as an offline run at the end.

    Args:
        run_directory: the run's folder; wandb writes into its `wandb` folder only.
        settings: where to send.
        notices: where to warn.
    """

    def __init__(self, run_directory: Path, settings: FollowerSettings, notices: Notices) -> None:
        self._directory, self._settings, self._notices = run_directory, settings, notices
        self._folder = run_directory / "wandb"
        self._run: wandb.Run | None = None
        self._attempts = 0
        self._next_attempt = 0.0

    def open(self, *, seconds_left: float | None) -> Logged | None:
        """Begin or continue the run; None while the server does not answer and there is time."""
        if self._settings.wandb == "offline":
            return self._open_offline()
        logged = None
        if self._attempts == 0 or (seconds_left is None and time.monotonic() >= self._next_attempt):
            logged = self._open_online(seconds_left)
        if logged is None and seconds_left is not None:
            logged = self._open_offline()
            self._notices.tell(f"W&B did not answer; the run is kept in {self._run_folder()}. To send it: wandb sync {self._run_folder()}")
        return logged

    def write(self, step: int, values: dict[str, float]) -> None:
        """Send one row; it goes to wandb's own process and returns at once."""
        assert self._run is not None
        self._run.log({"step": step, **values})

    def close(self, *, exit_code: int) -> None:
        """Finish the run: offline at once; online when the server has everything."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
        wandb.teardown()

    def _open_online(self, seconds_left: float | None) -> Logged | None:
        patience = min(FIRST_ATTEMPT_SECONDS * 2**self._attempts, LONGEST_ATTEMPT_SECONDS)
        if seconds_left is not None:
            patience = max(1.0, min(patience, seconds_left - OFFLINE_SECONDS))
        self._attempts += 1
        try:
            run = self._start("online", patience)
        except wandb.Error as error:
            self._next_attempt = time.monotonic() + RETRY_SECONDS
            wandb.teardown()
            self._notices.warn(f"W&B cannot be used yet: {_first_line(error)}; the metrics wait in {self._directory / 'metrics.jsonl'}")
            return None
        self._notices.tell(f"W&B run: {run.url}")
        last = int(run.summary.get("step", 0)) if run.resumed else 0
        return Logged(training=last, validation=last)

    def _open_offline(self) -> Logged:
        logged = Logged()
        for path in sorted(self._folder.glob("*run-*/run-*.wandb")):
            logged.note_all(history(path))
        self._start("offline", LONGEST_ATTEMPT_SECONDS)
        return logged

    def _start(self, mode: Literal["online", "offline"], patience: float) -> "wandb.Run":
        settings = self._settings
        run = wandb.init(
            dir=str(self._directory), mode=mode, project=settings.project, entity=settings.entity or None, name=settings.run_name or None,
            id=self._run_id(), resume="allow", config=settings.config, allow_val_change=True,
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=patience, disable_git=True, disable_code=True,
                x_save_requirements=False, x_transaction_log_flush_interval=FLUSH_SECONDS))
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        self._run = run
        return run

    def _run_folder(self) -> Path:
        assert self._run is not None
        return Path(self._run.dir).parent

    def _run_id(self) -> str:
        path = self._folder / "run_id"
        if not path.exists():
            path.write_text(secrets.token_hex(4) + "\n")
        return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
