"""A user at the login node: submits a run, looks at it, and what the cluster does to its job."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.faults.rig import Run

from .rig import SlurmRig, wait_until

HEXAREME = str(Path(sys.executable).with_name("hexareme"))
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
TASK = "hexareme.launcher.slurm.task"
JOB = "hexareme.launcher.slurm.job"
STEP_SECONDS = 400.0  # four ranks, each a fresh interpreter, share two cores with whatever else runs here
END_SECONDS = 300.0


class SlurmRun(Run):
    """A run folder whose starts are Slurm's.

    Args:
        rig: the cluster.
        folder: of this test; the run is in `run` below it.
        corpus: to train on.
        overrides: of every start.
    """

    def __init__(self, rig: SlurmRig, folder: Path, corpus: str, *overrides: str) -> None:
        super().__init__(folder, corpus, "cluster=slurm", "cluster.nodes=2", "cluster.ranks_per_node=2", *overrides)
        self.rig, self.jobs = rig, list[str]()

    @property
    def job(self) -> str:
        """The newest job."""
        return self.jobs[-1]

    def hexareme(self, *overrides: str) -> str:
        """What `hexareme submit` prints for this run."""
        return self.rig.on("n0", HEXAREME, "submit", *self.overrides, *overrides, folder=self.folder)

    def submit(self, *overrides: str) -> str:
        """Into the queue; the job's id."""
        self.jobs += re.findall(r"^job (\d+)$", self.hexareme(*overrides), re.M)
        return self.job

    def word(self, *, of: str = "") -> str:
        """Slurm's word for the job."""
        return self.rig.job(of or self.job)["JobState"]

    def log(self) -> str:
        """What the job printed."""
        path = self.directory / "slurm" / f"job-{self.job}.log"
        return path.read_text() if path.exists() else "(no log)"

    def history(self, event: str = "ended") -> list[dict[str, Any]]:
        """The rows of one kind."""
        path = self.directory / "slurm" / "history.jsonl"
        return [row for row in map(json.loads, path.read_text().splitlines()) if row["event"] == event]

    def await_step(self, step: int, seconds: float = STEP_SECONDS) -> None:
        """Until `metrics.jsonl` has a step; fails where the job ends before."""
        wait_until(lambda: self.last_step() >= step or self.word() in ENDED, seconds)
        assert self.last_step() >= step, self.log()

    def await_requeue(self, restarts: int, *, hurry: bool = True, seconds: float = END_SECONDS) -> None:
        """Until the job stands in the queue again.

        Args:
            restarts: how often it was requeued then.
            hurry: do not wait there for the two minutes that Slurm gives the nodes. After a power cut they are needed: slurmctld goes on
                trying to tell the node to kill the old step, and the new one has the same number.
            seconds: to wait.
        """
        wait_until(lambda: self.word() == "PENDING" and self.rig.job(self.job)["Restarts"] == str(restarts), seconds)
        if hurry:
            self.rig.on("n0", "scontrol", "update", f"JobId={self.job}", "StartTime=now")

    def await_end(self, seconds: float = END_SECONDS) -> str:
        """Slurm's word for a job that has ended for good."""
        wait_until(lambda: self.word() in ENDED, seconds)
        return self.word()

    def tasks(self, node: str) -> list[int]:
        """The watchers and ranks that run on a node."""
        return self.rig.programs(node, TASK)

    def close(self) -> None:
        """Nothing of this run lives on."""
        for job in self.jobs:
            self.rig.attempt("n0", "scancel", "--quiet", job)
            wait_until(lambda job=job: self.word(of=job) in ENDED, END_SECONDS)
