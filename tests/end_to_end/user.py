"""A user at a shell: starts commands in a folder, reads what they print, and sees what they leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.launcher.processes import default_signals

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MARK = "HEXAREME_TEST_MARK"  # inherited by everything a command starts, so that nothing can hide from `leftovers`


class User:
    """Works in one folder; each test has its own.

    Args:
        folder: the working directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self._shared_memory = set(os.listdir("/dev/shm"))
        clean = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        self.environment = clean | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", MARK: self.mark}

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=self.folder, env=self.environment | variables, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=default_signals)  # noqa: PLW1509

    def run(self, *command: str, timeout: float = 120, **variables: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(*command, **variables)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise
        return process.returncode, out, err

    def hexareme(self, *words: str, **options) -> tuple[int, str, str]:
        return self.run("hexareme", *words, **options)

    def metrics(self, run: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]

    def steps(self, run: str) -> dict[int, tuple[float, float]]:
        return {row["step"]: (row["loss"], row["grad_norm"]) for row in self.metrics(run) if "loss" in row}

    def exit_json(self, run: str) -> dict:
        return json.loads((self.folder / "runs" / run / "exit.json").read_text())

    def processes(self) -> list[int]:
        """Everything alive that this user's commands started."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def kill_everything(self) -> None:
        """A power cut for this user: SIGKILL to every process, until none is left."""
        while found := self.processes():
            for process in found:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.01)

    def leftovers(self, patience: float = 30) -> list[str]:
        """What still lives after its time (three times the promised 10 s), and what lies in /dev/shm."""
        deadline = time.monotonic() + patience
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        alive = [Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode() for process in self.processes()]
        return alive + sorted(set(os.listdir("/dev/shm")) - self._shared_memory)


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ERROR ")]
