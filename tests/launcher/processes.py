"""Starting the program, looking at what it started, and waiting with a deadline."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.tokens.writer import TokenFileWriter
from hexareme.launcher.processes import descendants

PROGRAM = Path(__file__).with_name("program.py")
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def default_signals() -> None:
    """Signals as in a terminal: who runs the tests by nohup, or in the background of a script, has some of them ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


class Run:
    """A run folder with a corpus that is just good enough to pass validation, and the processes started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.directory = folder, folder / "run"
        with TokenFileWriter(folder / "corpus", np.uint16) as writer:
            writer.add_document(np.arange(100))
            writer.finish()
        self.overrides = [f"data.train={folder / 'corpus'}", f"run.directory={self.directory}", "experiment=debug"]
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        process = subprocess.Popen([*command, *self.overrides], env=clean | {"OMP_NUM_THREADS": "1"} | variables, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=default_signals)  # noqa: PLW1509
        self.started.append(process)
        return process

    def program(self, *overrides: str, **variables: str) -> subprocess.Popen[str]:
        self.overrides += overrides
        return self.start(sys.executable, str(PROGRAM), **variables)

    def finish(self, process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def exit_json(self) -> dict | None:
        path = self.directory / "exit.json"
        return json.loads(path.read_text()) if path.exists() else None

    def close(self) -> None:
        for process in self.started:
            for child in descendants(process.pid):
                os.kill(child, 9)
            process.kill()
            process.communicate()


def ready(process: subprocess.Popen[str]) -> int:
    """Waits for a rank's `ready` line on the terminal; its process id."""
    assert process.stdout is not None
    for line in process.stdout:
        if "ready " in line:
            return int(line.split("ready ")[1].split()[1])
    pytest.fail("the rank never started")


def wait_until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ERROR ")]
