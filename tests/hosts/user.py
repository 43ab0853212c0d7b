"""A user at host n0, who starts runs on n1 and n2."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.end_to_end.user import MARK, User
from tests.launcher.processes import wait_until

from .rig import Rig

# 2 layers of 64; one sample a rank and step
TINY = ("experiment=debug", "data.validation=none", "model.num_layers=2", "model.hidden_size=64", "model.ffn_hidden_size=128",
        "model.num_heads=2", "model.num_kv_heads=2", "model.sequence_length=64", "model.dropout=0.1", "batch.global_size=4",
        "batch.micro_size=1", "schedule.warmup_steps=2", "tracking.wandb=disabled", "tracking.console_interval=1")
LINK_TIMEOUT = 8
HANG_TIMEOUT = 90  # on a busy machine importing torch alone is one silent half of a minute
START_SECONDS = 600.0  # interpreters import torch on a machine that others use as well


class HostsUser(User):
    """As `User`, on hosts.

    Args:
        folder: the working directory, seen by all hosts.
        rig: the hosts.
    """

    def __init__(self, folder: Path, rig: Rig) -> None:
        super().__init__(folder)
        self.rig = rig
        (folder / "hosts").write_text("# real ones\nn[1-2] slots=2\n")

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return super().start(*self.rig.on("n0", *command, folder=self.folder), **variables)

    def train(self, corpus: Path, name: str, ranks_per_node: int, *more: str, **variables: str) -> subprocess.Popen[str]:
        return self.start("hexareme", *self.words(corpus, name), "cluster=ssh", "cluster.hostfile=hosts", "cluster.nodes=2",
                          f"cluster.ranks_per_node={ranks_per_node}", f"cluster.ssh_config={self.rig.config}",
                          f"cluster.link_timeout={LINK_TIMEOUT}", f"run.hang_timeout={HANG_TIMEOUT}",
                          f"cluster.environment=[OMP_NUM_THREADS, WANDB_API_KEY, {MARK}]", *more, **variables)

    @staticmethod
    def words(corpus: Path, name: str) -> list[str]:
        return ["train", *TINY, f"data.train={corpus}", f"run.name={json.dumps(name, ensure_ascii=False)}"]

    def wait_for_step(self, process: subprocess.Popen[str], name: str, step: int) -> None:
        """Until a run has made a step."""
        def made() -> bool:
            assert process.poll() is None, process.communicate()
            path = self.folder / "runs" / name / "metrics.jsonl"
            return path.exists() and path.read_bytes().count(b"\n") >= step

        wait_until(made, START_SECONDS)

    def rank(self, number: int) -> int:
        """Process id of a rank, as seen from outside of all hosts: of the two processes with its RANK, the forked one."""
        wanted, found = f"RANK={number}".encode(), {}
        for process in self.processes():
            try:
                if wanted in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                    found[process] = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        return next(process for process, parent in found.items() if parent in found)

    def finish(self, process: subprocess.Popen[str], seconds: float = START_SECONDS) -> tuple[int, str, str]:
        """Exit code and both outputs."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            out, err = process.communicate()
            raise AssertionError(f"has not ended: {out}{err}") from None
        return process.returncode, out, err

    def gone(self, *hosts: str, seconds: float) -> float:
        """Waits until nothing of a run lives on some hosts; how long that took."""
        begun = time.monotonic()
        inside = {process for host in hosts for process in self.rig.processes(host)}
        wait_until(lambda: not (set(self.processes()) & inside), seconds)
        return time.monotonic() - begun


def error_line(text: str) -> str:
    """The one error line of an attempt."""
    (line,) = re.findall(r"^ERROR .*$", text, re.MULTILINE)
    return line


def kill(process: int, number: signal.Signals) -> None:
    os.kill(process, number)
