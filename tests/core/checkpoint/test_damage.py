"""Damaged and hostile folders: found before a byte is used, named, and an older checkpoint serves."""

import logging
import os
import random
import shutil
from pathlib import Path

import pytest
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.checkpoint.strict_json import DamagedError
from hexareme.core.errors import CheckpointError

from .conftest import LAYOUT
from .damaged import assert_falls_back, blank, loads
from .layouts import small_state
from .ranks import alone, on_threads


def test_every_flipped_bit_is_found(directory, caplog):
    generator = random.Random(1)
    folder = directory / "step-00000020"
    files = sorted(path for path in folder.iterdir())
    for _ in range(100):
        path = generator.choice(files)
        content = bytearray(path.read_bytes())
        at, bit = generator.randrange(len(content)), generator.randrange(8)
        content[at] ^= 1 << bit
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=path.name):
            Checkpoint.open(folder).verify()
        with caplog.at_level(logging.WARNING):
            assert loads(directory)[0].step == 10, (path.name, at, bit)
        path.write_bytes(before)
    assert loads(directory)[0].step == 20


def test_no_byte_of_a_bad_block_is_used(directory):
    folder = directory / "step-00000020"
    for path in folder.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    live = blank()
    with pytest.raises(DamagedError):
        Checkpoint.open(folder).load(live)
    assert all(fragment.tensor.eq(77).all() for fragment in live)


@pytest.mark.parametrize("name", ["manifest.json", "rank-00000.safetensors", "rank-00003.safetensors"])
@pytest.mark.parametrize("length", ["0", "1", "half", "-1", "+1", "gone", "link", "folder", "pipe"])
def test_a_file_of_another_size_or_kind(directory, caplog, name, length, tmp_path):
    path = directory / "step-00000020" / name
    size = path.stat().st_size
    match length:
        case "gone" | "link" | "folder" | "pipe":
            shutil.move(path, tmp_path / name)
            if length == "link":
                path.symlink_to(tmp_path / name)
            elif length == "folder":
                path.mkdir()
            elif length == "pipe":
                os.mkfifo(path)
        case "+1":
            path.write_bytes(path.read_bytes() + b"\n")
        case _:
            os.truncate(path, {"0": 0, "1": 1, "half": size // 2, "-1": size - 1}[length])
    assert_falls_back(directory, caplog, name)


def test_swapped_files(directory, caplog):
    a, b = (directory / "step-00000020" / f"rank-0000{rank}.safetensors" for rank in (1, 3))
    assert a.stat().st_size != b.stat().st_size or a.read_bytes() != b.read_bytes()
    a.rename(a.with_suffix(".x"))
    b.rename(a)
    a.with_suffix(".x").rename(b)
    assert_falls_back(directory, caplog, a.name, b.name)


def test_files_of_another_step(directory, caplog):
    folder = directory / "step-00000020"
    shutil.copy(directory / "step-00000010" / "rank-00001.safetensors", folder)
    assert_falls_back(directory, caplog, "rank-00001.safetensors")
    shutil.copy(directory / "step-00000010" / "manifest.json", folder)
    assert_falls_back(directory, caplog, "manifest.json")


@pytest.mark.parametrize("name", ["rank-00009.safetensors", "notes.txt", ".hidden"])
def test_an_extra_file_is_refused_by_name(directory, name):
    """No damage: an older checkpoint must not quietly serve in its place."""
    (directory / "step-00000020" / name).write_bytes(b"x")
    for must in (True, False):
        with pytest.raises(CheckpointError, match=name) as raised:
            loads(directory, must=must)
        assert not isinstance(raised.value, DamagedError)


HINTS = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256))[128:],
    "garbage": b"\0\0\0",
    "not there": b"step-00000099\n",
    "out": b"../../x",
    "absolute": b"/etc",
    "large": b"step-00000020" * 800_000,
    "short": b"step-20",
    "another number": "step-０0000020".encode(),
    "two lines": b"step-00000020\nstep-00000010\n",
}


@pytest.mark.parametrize("hint", HINTS)
def test_a_wrong_hint_is_ignored_loudly_or_refused(directory, caplog, hint):
    (directory / "latest").unlink()
    content = HINTS[hint]
    if content is not None:
        (directory / "latest").write_bytes(content)
    with pytest.raises(CheckpointError, match="latest"):
        loads(directory, must=True)
    with caplog.at_level(logging.WARNING):
        assert loads(directory)[0].step == 20
    assert "latest" in caplog.text
    newest = alone(directory).newest()
    assert newest is not None and newest.step == 20


def test_a_hint_that_is_a_link_out_is_refused(directory, tmp_path, caplog):
    (tmp_path / "elsewhere").write_text("step-00000020\n")
    (directory / "latest").unlink()
    (directory / "latest").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="latest"):
        loads(directory, must=True)
    assert loads(directory)[0].step == 20


def test_a_folder_that_is_a_link_out_is_passed_over(directory, tmp_path):
    shutil.move(directory / "step-00000020", tmp_path / "stolen")
    (directory / "step-00000020").symlink_to(tmp_path / "stolen")
    assert loads(directory)[0].step == 10
    with pytest.raises(CheckpointError, match="names step-00000020"):
        loads(directory, must=True)


def test_an_older_hint_is_right(directory, caplog):
    """A crash between the rename and the hint leaves this; the newest whole folder counts."""
    (directory / "latest").write_text("step-00000010\n")
    assert loads(directory, must=True)[0].step == 20
    assert not caplog.text


def test_nothing_whole_is_never_a_fresh_start(directory):
    for folder in directory.glob("step-*"):
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        loads(directory)
    assert alone(directory).newest() is None


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    assert alone(tmp_path).load_newest([]) is None
    assert alone(tmp_path / "missing").load_newest([]) is None
    assert alone(tmp_path / "missing").newest() is None
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        alone(tmp_path).load_newest([], must=True)


def test_damage_on_one_rank_makes_all_ranks_fall_back(directory):
    """Each rank loads only its own part, so only one of them meets the damage."""
    path = directory / "step-00000020" / "rank-00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    state, cuts = small_state(10)

    def action(checkpointer: Checkpointer, rank: int) -> int:
        from .layouts import fragments, local_flat

        held = local_flat(state, cuts, LAYOUT, rank)
        live = fragments(held, LAYOUT, rank, blank=True)
        found = checkpointer.load_newest(live)
        assert found and all(fragment.tensor.equal(part[3]) for fragment, part in zip(live, held, strict=True))
        return found[0].step

    assert on_threads(4, directory, action) == [10, 10, 10, 10]


def test_a_refusal_on_one_rank_stops_all(directory):
    def action(checkpointer: Checkpointer, rank: int) -> None:
        def accept(checkpoint: Checkpoint) -> None:
            if rank == 1:
                raise CheckpointError("no", do="x")

        checkpointer.load_newest([], accept=accept)

    errors = on_threads(3, directory, action)
    assert [type(error) for error in errors] == [CheckpointError] * 3


def test_ranks_that_see_different_folders_stop(directory, tmp_path):
    def action(checkpointer: Checkpointer, rank: int) -> None:
        checkpointer._directory = directory if rank else tmp_path / "none"
        checkpointer.load_newest([])

    errors = on_threads(3, directory, action)
    assert all("see different checkpoints" in str(error) for error in errors)


def test_a_file_that_grows_or_shrinks_after_opening_is_found(directory):
    checkpoint = Checkpoint.open(directory / "step-00000020")
    path = checkpoint.folder / "rank-00000.safetensors"
    content = path.read_bytes()
    for other in (content + b"x", content[:-1]):
        path.write_bytes(other)
        with pytest.raises(DamagedError, match=f"has {len(other)} bytes instead of {len(content)}"):
            checkpoint.load(blank())


def test_nothing_here_can_run_code():
    import hexareme.core.checkpoint as package

    source = "".join(path.read_text() for folder in package.__path__ for path in Path(folder).glob("*.py"))
    assert "import xxhash" in source
    assert not any(word in source for word in ("pickle", "torch.load", "torch.save", "eval(", "allow_pickle"))
