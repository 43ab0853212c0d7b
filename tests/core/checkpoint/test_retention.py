"""How many checkpoints stay, which, and what becomes of a step that is saved twice."""

import shutil
from pathlib import Path

import pytest
import torch
from hexareme.core.checkpoint import storage
from hexareme.core.checkpoint.folder import folder_name, remove_older, step_folders, step_of
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.parallel.partition import ShardSpec
from hypothesis import given
from hypothesis import strategies as st

from .ranks import alone


def save(directory: Path, step: int, value: float | None = None, keep: int = 2) -> Path:
    weight = torch.full((4,), float(step if value is None else value))
    fragment = Fragment("w", "parameter", ShardSpec.whole((4,)), 0, weight)
    checkpointer = alone(directory, keep)
    folder = checkpointer.save(step=step, samples_seen=step, config={}, extra={}, fragments=[fragment])
    checkpointer.finish()
    return folder


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def steps(directory: Path) -> list[int | None]:
    return [step_of(folder.name) for folder in step_folders(directory)]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay(tmp_path, keep):
    for step in range(10, 60, 10):
        save(tmp_path, step, keep=keep)
    assert steps(tmp_path) == [50, 40, 30][:keep]
    assert (tmp_path / "latest").read_text() == "step-00000050\n"


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.keep=0 must be at least 1"):
        alone(tmp_path, keep=0)


def test_damaged_ones_are_not_counted(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    (tmp_path / "step-00000030" / "manifest.json").write_bytes(b"{}")
    save(tmp_path, 40, keep=4)
    assert steps(tmp_path) == [40, 30, 20, 10]  # three whole ones are fewer than four
    save(tmp_path, 40, keep=2)
    assert steps(tmp_path) == [40, 30, 20]  # 30 is damaged and stays for inspection: nothing was deleted in its place
    save(tmp_path, 50, keep=2)
    save(tmp_path, 60, keep=2)
    assert steps(tmp_path) == [60, 50]


def test_nothing_goes_unless_a_verified_one_stays(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    assert remove_older(tmp_path, keep=1, verified=tmp_path / "step-00000010") == []
    (tmp_path / "step-00000030" / "rank-00000.safetensors").write_bytes(b"")
    assert remove_older(tmp_path, keep=1, verified=tmp_path / "step-00000030") == []
    assert steps(tmp_path) == [30, 20, 10]
    assert remove_older(tmp_path, keep=1, verified=tmp_path / "step-00000020") == [tmp_path / "step-00000010"]


def test_half_deleted_ones_go(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    (tmp_path / "step-00000010" / "manifest.json").unlink()
    assert remove_older(tmp_path, keep=2, verified=tmp_path / "step-00000020") == []  # one whole one is fewer than two
    save(tmp_path, 30)
    save(tmp_path, 40)
    assert steps(tmp_path) == [40, 30]


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "step-5").mkdir()
    (tmp_path / "step-00000001.bak").mkdir()
    (tmp_path / ".step-00000001").write_text("file")
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=1)
    assert names(tmp_path) == [".step-00000001", "latest", "mine", "step-00000001.bak", "step-00000040", "step-5"]


def test_stale_attempts_go_with_the_next_save(tmp_path):
    stale = tmp_path / ".step-00000007.dead.tmp"
    stale.mkdir()
    (stale / "rank-00000.safetensors").write_bytes(b"half")
    (tmp_path / "latest.tmp").write_text("half")
    save(tmp_path, 10)
    assert names(tmp_path) == ["latest", "step-00000010"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("state", ["whole", "damaged", "no manifest", "link"])
def test_a_step_saved_again_is_replaced(tmp_path, monkeypatch, exchange, state):
    directory = tmp_path / "checkpoints"
    if not exchange:  # as on a file system that cannot exchange names
        monkeypatch.setattr(storage, "_exchange", lambda first, second: False)
    folder = save(directory, 10, value=1.0)
    if state == "damaged":
        (folder / "rank-00000.safetensors").write_bytes(b"x")
    elif state == "no manifest":
        (folder / "manifest.json").unlink()
    elif state == "link":
        shutil.move(folder, tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    save(directory, 10, value=2.0)
    newest = alone(directory).newest()
    assert newest is not None and newest.read_tensor("w").eq(2).all()
    assert names(directory) == ["latest", "step-00000010"]
    assert not folder.is_symlink()
    assert state != "link" or alone(directory).open(tmp_path / "moved").read_tensor("w").eq(1).all()


def test_this_file_system_exchanges_names(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert storage._exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"]
    with pytest.raises(FileNotFoundError):
        storage._exchange(tmp_path / "a", tmp_path / "missing")


@given(st.integers(0, 10**18 - 1))
def test_folder_names_read_back(step):
    assert step_of(folder_name(step)) == step


@pytest.mark.parametrize(
    "name",
    ["step-1", "step-000000001", "step-" + "٠" * 8, "step-0000000x", "step--0000001", "step-00000001\n", "step-" + "9" * 19],
)
def test_other_names_are_no_checkpoints(name):
    assert step_of(name) is None
