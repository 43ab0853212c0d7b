"""Asynchronous saves: the same checkpoints as synchronous ones, written by another process; a worker that fails is an error in time."""

import os
import signal
import time
from pathlib import Path

import pytest
from hexareme.core.checkpoint.folder import staged_folders, step_folders
from hexareme.core.checkpoint.reader import Checkpoint

from tests.launcher.processes import wait_until

from .rig import SLACK, Run, children, living, send

ASYNCHRONOUS = "checkpoint.asynchronous=true"


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("reference"), corpus)
    assert run.start().finish() == 0
    return run.course()


def workers(rank: int) -> list[int]:
    """The processes that write for a rank."""
    return [process for process in children(rank) if b"checkpoint.worker" in Path(f"/proc/{process}/cmdline").read_bytes()]


def steps(run: Run) -> list[int]:
    return [Checkpoint.open(folder).step for folder in step_folders(run.directory / "checkpoints")]


def test_the_same_run_bit_for_bit(new_run, reference):
    run = new_run("run", ASYNCHRONOUS)
    assert run.start().finish() == 0
    assert run.course() == reference
    assert steps(run) == [40, 30]  # `keep` is 2
    assert staged_folders(run.directory / "checkpoints") == []
    for folder in step_folders(run.directory / "checkpoints"):
        Checkpoint.open(folder).verify()
