"""Rows A5, A9, A10: full disks, disks that lie, ranks that disagree. On real small disks, in real runs where a run is what matters."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hexareme.core.checkpoint import committer, folder, stream
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.folder import read_hint, staged_folders, step_folders
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.checkpoint.storage import free_bytes
from hexareme.core.errors import FolderInUseError, NonFiniteError, RunError, StorageError
from hexareme.parallel.partition import ShardSpec

from tests.core.checkpoint.disks import on_own_disk
from tests.core.checkpoint.ranks import ForkedRanks, alone
from tests.launcher.processes import wait_until

from .rig import Run
from .test_asynchronous import slow_steps

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])


def on_a_small_disk(corpus: str, tmp_path: Path, action: Callable[[Run, Path], dict], *overrides: str) -> dict:
    """A run whose folder is on a disk of 24 MB; its checkpoints have 1.5 MB."""
    disk = tmp_path / "disk"

    def inside() -> dict:
        run = Run(tmp_path, corpus, f"run.directory={disk}/run", *overrides)
        run.directory = disk / "run"
        try:
            return action(run, disk)
        finally:
            run.close()

    return on_own_disk(disk, 24 * 2**20, inside)


def fill(disk: Path) -> Path:
    """Not a byte is free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while free_bytes(disk):
            file.write(bytes(min(free_bytes(disk), 2**20)))
    return ballast


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("reference"), corpus)
    assert run.start().finish() == 0
    return run.course()


@BOTH
def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(corpus, tmp_path, reference, asynchronous):
    """A5. Training goes on, its metrics wait in memory, and nothing is missing at the end."""

    def action(run: Run, disk: Path) -> dict:
        start = run.start(prepare=slow_steps)
        wait_until(lambda: "\ncheckpoint " in start.text() or start.ended(), 90)
        ballast = fill(disk)
        wait_until(lambda: "NOT SAVED" in start.text() or start.ended(), 60)
        line = next(line for line in start.text().splitlines() if "NOT SAVED" in line)
        whole = step_folders(run.directory / "checkpoints")
        for each in whole:
            Checkpoint.open(each).verify()
        ballast.unlink()
        code = start.finish()
        return {"code": code, "line": line, "during": len(whole), "equal": run.course() == reference, "text": start.text(),
                "steps": [each.name for each in step_folders(run.directory / "checkpoints")]}

    found = on_a_small_disk(corpus, tmp_path, action, f"checkpoint.asynchronous={str(asynchronous).lower()}")
    assert found["code"] == 0 and found["equal"] and found["during"] >= 1, found
    assert "needs" in found["line"] and "free" in found["line"] and "run/" in found["line"]
    assert found["steps"][0] == "step-00000040" and len(found["steps"]) == 2


def test_a_disk_that_stays_full_ends_the_run_and_costs_no_checkpoint(corpus, tmp_path, reference):
    """A5: exit 7 after three failures, the older checkpoint whole; with room again, the same course."""

    def action(run: Run, disk: Path) -> dict:
        start = run.start("checkpoint.interval=4", prepare=slow_steps)
        wait_until(lambda: "\ncheckpoint " in start.text() or start.ended(), 90)
        ballast = fill(disk)
        code = start.finish()
        for each in step_folders(run.directory / "checkpoints"):
            Checkpoint.open(each).verify()
        left = [path.name for path in staged_folders(run.directory / "checkpoints")]
        ended = run.exit_json()
        ballast.unlink()
        then = run.start().finish()
        return {"code": code, "errors": start.error_lines(), "ended": ended["code"], "failures": start.text().count("NOT SAVED"),
                "left": left, "then": then, "equal": run.course() == reference}

    found = on_a_small_disk(corpus, tmp_path, action)
    assert found["code"] == 7 and found["failures"] == 2, found
    assert len(found["errors"]) == 1 and found["errors"][0].startswith("ERROR 7 ") and found["ended"] == 7, found  # room was reserved
    assert found["left"] == [] and found["then"] == 0 and found["equal"], found


def one(value: float = 1.0) -> list[Fragment]:
    return [Fragment("w", "parameter", ShardSpec.whole((1000,)), 0, torch.full((1000,), value))]


def saved(checkpointer: Checkpointer, step: int, value: float = 1.0) -> None:
    checkpointer.save(step=step, samples_seen=step, config={}, extra={}, fragments=one(value))
    checkpointer.finish()


def lying_disk(monkeypatch) -> None:
    """What is committed changes before it is read back."""
    begin = committer.Committer._commit_done

    def changed(self, place: Path, files: dict) -> None:
        path = place / "rank-00000.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        begin(self, place, files)

    monkeypatch.setattr(committer.Committer, "_commit_done", changed)


def newest_is_whole_after_a_lie(directory: Path, monkeypatch) -> bool:
    """Two good saves with keep=1, then one that the disk does not keep as it was written."""
    for step in (10, 20):
        saved(alone(directory, keep=1), step)
    with monkeypatch.context() as patch:
        lying_disk(patch)
        with pytest.raises(StorageError, match="does not return what was written"):
            saved(alone(directory, keep=1), 30)
    for each in step_folders(directory):
        Checkpoint.open(each).verify()
    return [each.name for each in step_folders(directory)] == ["step-00000020"] and read_hint(directory) == "step-00000020"


def test_what_does_not_read_back_never_pushes_a_whole_one_out(tmp_path, monkeypatch):
    """A10."""
    assert newest_is_whole_after_a_lie(tmp_path, monkeypatch)


def test_mutant_without_the_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr("hexareme.core.checkpoint.verification.verify_file", lambda path, saved, tick: None)
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        newest_is_whole_after_a_lie(tmp_path, monkeypatch)
    assert [each.name for each in step_folders(tmp_path)] == ["step-00000030"]  # the only one left is damaged


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nothing_unhealthy_is_committed(tmp_path, value, asynchronous):
    def checkpointer() -> Checkpointer:
        return Checkpointer(tmp_path, keep=1, rank=0, world_size=1, agree=lambda ok: ok, asynchronous=asynchronous)

    saved(checkpointer(), 10)
    with pytest.raises(NonFiniteError, match=r"w \(parameter\) has 1000 elements that are not finite"):
        saved(checkpointer(), 20, value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "latest"] == ["step-00000010"]


def test_mutant_without_the_look_at_elements(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "require_finite", lambda content, begin, floats: None)
    saved(alone(tmp_path), 10, float("nan"))
    assert step_folders(tmp_path) != []


@BOTH
def test_a_newer_attempt_owns_the_folder(tmp_path, asynchronous):
    """The fence is asked before the first byte and once more before the commit."""
    asked = []

    def fence() -> None:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise FolderInUseError("a newer attempt owns this folder", do="leave it")

    checkpointer = Checkpointer(tmp_path, keep=1, rank=0, world_size=1, agree=lambda ok: ok, fence=fence, asynchronous=asynchronous)
    with pytest.raises(FolderInUseError):
        saved(checkpointer, 10)
    assert list(tmp_path.iterdir()) == [] and len(asked) == 2


@BOTH
def test_ranks_of_different_steps_commit_nothing(tmp_path, asynchronous):
    """A9."""

    def action(given: Checkpointer, rank: int) -> None:
        agree = given._ranks.agree
        checkpointer = Checkpointer(tmp_path, keep=1, rank=rank, world_size=2, agree=agree, asynchronous=asynchronous)
        fragment = [Fragment(f"w{rank}", "parameter", ShardSpec.whole((10,)), 0, torch.ones(10))]
        checkpointer.save(step=(70, 71)[rank], samples_seen=1, config={}, extra={}, fragments=fragment)
        checkpointer.finish()

    begun = time.monotonic()
    outcomes = ForkedRanks(2, tmp_path, action).wait()
    assert time.monotonic() - begun < 30
    for outcome in outcomes:
        assert outcome["error"] == "CheckpointError" and "step 71" in outcome["message"] and "step-00000070" in outcome["message"], outcome
    assert step_folders(tmp_path) == [] and staged_folders(tmp_path) == []


def test_free_space_is_checked_before_a_byte_is_written(tmp_path):
    disk = tmp_path / "disk"

    def action() -> str:
        checkpointer = alone(disk / "checkpoints")
        checkpointer.expect(own=5 * 2**20, total=5 * 2**20)
        try:
            saved(checkpointer, 10)
        except RunError as error:
            return f"{error.exit_code} {error}"
        return "saved"

    assert "7 cannot save to" in (said := on_own_disk(disk, 4 * 2**20, action)) and "needs 5.2 MB, and 4.2 MB are free" in said


def test_a_damaged_one_is_removed_commit_mark_first(tmp_path, monkeypatch):
    for step in (10, 20):
        saved(alone(tmp_path), step)
    monkeypatch.setattr(folder, "remove_tree", lambda path: None)  # killed there
    folder.discard(tmp_path, tmp_path / "step-00000020")
    assert alone(tmp_path).newest().step == 10 and read_hint(tmp_path) == "step-00000010"
