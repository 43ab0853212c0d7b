"""One Slurm for the session, and runs that are submitted to it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hexareme.core.engine.overhead import write_random_corpus

from tests.faults.rig import Run

from .rig import SlurmRig, missing
from .user import SlurmRun

COURSE = ("train.steps=16", "checkpoint.interval=4", "tracking.wandb=disabled")  # short: the rows here are about starts, not about steps


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmRig]:
    if lacks := missing():
        pytest.skip(f"a Slurm of its own {lacks}")
    made = SlurmRig(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random_corpus(tmp_path_factory.mktemp("corpus"), vocab_size=512, tokens=1 << 16))


@pytest.fixture(scope="session")
def reference(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    """The course of the run on four ranks that nobody disturbed, started by `cluster=local`: no part of Slurm has a hand in it."""
    run = Run(tmp_path_factory.mktemp("reference"), corpus, *COURSE)
    assert run.start(ranks=4).finish() == 0, run.starts[0].text()
    return run.course()


@pytest.fixture
def submitted(rig: SlurmRig, corpus: str, tmp_path: Path) -> Iterator[Callable[..., SlurmRun]]:
    """`submitted("name", *overrides)`: a run in the queue. After the test its jobs are cancelled, and /dev/shm is as it was."""
    runs: list[SlurmRun] = []
    shared = set(os.listdir("/dev/shm"))

    def new(name: str, *overrides: str) -> SlurmRun:
        (tmp_path / name).mkdir()
        runs.append(SlurmRun(rig, tmp_path / name, corpus, *COURSE, *overrides))
        runs[-1].submit()
        return runs[-1]

    yield new
    for run in runs:
        run.close()
    assert set(os.listdir("/dev/shm")) <= shared
