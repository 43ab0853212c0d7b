"""Rows B1 to B3: flipped bits, cut, lost, swapped and extra files, and every wrong form of `latest`."""

import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hexareme.core.checkpoint import blocks, checkpointer, folder, manifest, reader
from hexareme.core.errors import CheckpointError

from . import kept
from .kept import NEWEST, OLDER
from .rig import SLACK, Run

MOST_SECONDS = 5.0 * SLACK


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return kept.copy_kept(tmp_path)


def refused(directory: Path, *names: str) -> None:
    """`must` is error 4 that names a file, in time; `auto` is the older checkpoint, loudly (for `latest`: the newest)."""
    begun = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        kept.load(directory, must=True)
    assert raised.value.exit_code == 4 and any(name in str(raised.value) for name in names), raised.value
    assert time.monotonic() - begun < MOST_SECONDS


def flip(path: Path, at: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def flip_many(directory: Path, count: int, caplog: pytest.LogCaptureFixture) -> int:
    """Seeded single-bit flips over all files, each file as often as its size says; how many were found."""
    files = [*sorted((directory / NEWEST).iterdir()), directory / "latest"]
    dice, found = random.Random(0), 0
    for number in range(count):
        path = files[number % len(files)] if number < 5 * len(files) else dice.choices(files, [file.stat().st_size for file in files])[0]
        whole = path.read_bytes()
        flip(path, dice.randrange(len(whole)), dice.randrange(8))
        refused(directory, path.name)
        with caplog.at_level(logging.WARNING):
            step = kept.load(directory, must=False)[0].step
        assert step == (4 if path.name == "latest" else 2) and path.name in caplog.text
        caplog.clear()
        path.write_bytes(whole)
        found += 1
    assert kept.load(directory, must=True)[0].step == 4
    return found


def test_every_flipped_bit_is_found(directory, caplog):
    """B1, its T0 part."""
    assert flip_many(directory, 100, caplog) == 100


@pytest.mark.nightly
def test_a_thousand_flipped_bits_are_found(directory, caplog):
    """B1."""
    found = flip_many(directory, 1000, caplog)
    print(f"{found} of 1,000 flipped bits found")
    assert found == 1000


FILES = ("manifest.json", "rank-00000.safetensors", "rank-00001.safetensors")
DAMAGES: dict[str, Callable[[Path], object]] = {
    "0 bytes": lambda path: os.truncate(path, 0),
    "1 byte": lambda path: os.truncate(path, 1),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "removed": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.parent.parent / "elsewhere"), path.symlink_to(path.parent.parent / "elsewhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_or_gone(directory, name, damage):
    """B2."""
    DAMAGES[damage](directory / NEWEST / name)
    refused(directory, name)
    assert kept.load(directory, must=False)[0].step == 2


def test_swapped_files(directory):
    """B2."""
    first, second = (directory / NEWEST / name for name in FILES[1:])
    first.rename(directory / "aside")
    second.rename(first)
    (directory / "aside").rename(second)
    refused(directory, *FILES[1:])
    assert kept.load(directory, must=False)[0].step == 2


@pytest.mark.parametrize("must", [True, False])
def test_an_extra_file_is_an_error_and_no_reason_for_an_older_checkpoint(directory, must):
    """B2: it is named, and the way out is to move it away."""
    (directory / NEWEST / "rank-00002.safetensors").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="rank-00002") as raised:
        kept.load(directory, must=must)
    assert "move it" in raised.value.do


HINTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "names a folder that is gone": lambda path: path.write_bytes(b"step-00000099\n"),
    "leads out": lambda path: path.write_bytes(b"../../x\n"),
    "absolute": lambda path: path.write_bytes(b"/etc\n"),
    "10 MB": lambda path: path.write_bytes(b"step-00000004\n" * 750_000),
    "a link out": lambda path: path.symlink_to("/etc/hostname"),
}


@pytest.mark.parametrize("form", HINTS)
def test_a_wrong_hint(directory, form, caplog):
    """B3."""
    (directory / "latest").unlink()
    HINTS[form](directory / "latest")
    refused(directory, "latest")
    with caplog.at_level(logging.WARNING):
        assert kept.load(directory, must=False)[0].step == 4
    assert "latest" in caplog.text


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Run:
    """A real run of 6 steps with two checkpoints."""
    run = Run(tmp_path_factory.mktemp("finished"), corpus, "train.steps=6", "checkpoint.interval=3")
    assert run.start(ranks=1).finish() == 0, run.starts[-1].text()
    return run


def again(finished: Run, new_run: Callable[..., Run]) -> Run:
    """A copy of it that may be damaged."""
    run = new_run("again", "train.steps=6", "checkpoint.interval=3")
    shutil.copytree(finished.directory, run.directory)
    return run


@pytest.mark.parametrize("form", ["missing", "leads out"])
def test_a_real_run_that_must_resume_refuses_a_wrong_hint(finished, new_run, form):
    """B3."""
    run = again(finished, new_run)
    (run.directory / "checkpoints" / "latest").unlink()
    HINTS[form](run.directory / "checkpoints" / "latest")
    start = run.start("checkpoint.resume=must", ranks=1)
    assert start.finish() == 4
    assert "latest" in start.error_lines()[0]


def test_a_real_run_goes_on_from_the_one_before(finished, new_run):
    """B1: loudly, and the end is the same to the last bit."""
    run = again(finished, new_run)
    flip(run.directory / "checkpoints" / "step-00000006" / "rank-00000.safetensors", -1, 3)
    start = run.start(ranks=1)
    assert start.finish() == 0, start.text()
    assert "loaded step-00000003" in start.text() and "filled exactly once" in start.text()
    assert "damaged" in (run.directory / "logs" / "rank-00000.log").read_text()
    assert run.course() == finished.course()


@pytest.mark.parametrize("lost", ["the folders", "the whole of checkpoints"])
def test_a_run_without_its_checkpoints_never_starts_at_step_0(finished, new_run, lost):
    """B3."""
    run = again(finished, new_run)
    directory = run.directory / "checkpoints"
    for path in directory.glob("step-*") if lost == "the folders" else [directory]:
        shutil.rmtree(path)
    before = (run.directory / "metrics.jsonl").read_bytes()
    start = run.start(ranks=1)
    assert start.finish() == 4
    assert "step 6" in start.error_lines()[0] and "restore" in start.error_lines()[0]
    assert (run.directory / "metrics.jsonl").read_bytes() == before


def unchecked(self: blocks.BlockReader, index: int, room: bytearray) -> memoryview:
    content = memoryview(room)[: min(manifest.BLOCK_BYTES, self._saved.size - index * manifest.BLOCK_BYTES)]
    self._fill(content, index * manifest.BLOCK_BYTES)
    return content


def unsized(self: blocks.BlockReader, path: Path, saved: manifest.SavedFile) -> None:
    self._path, self._saved, self._handle = path, saved, os.open(path, os.O_RDONLY)


def a_bit_of_data(directory: Path) -> None:
    flip(directory / NEWEST / FILES[1], -1, 0)


def a_bit_of_the_manifest(directory: Path) -> None:
    path = directory / NEWEST / "manifest.json"
    flip(path, path.read_bytes().index(b'"samples_seen":1') + len('"samples_seen":1') - 1, 1)


def without_block_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks.BlockReader, "block", unchecked)


def without_seal(patch: pytest.MonkeyPatch) -> None:
    always = SimpleNamespace(hexdigest=lambda: "0" * 64)
    patch.setattr(manifest, "hashlib", SimpleNamespace(sha256=lambda body: always))
    patch.setattr(manifest, "_SEAL", SimpleNamespace(fullmatch=lambda content: {1: b"0" * 64}))


def without_size_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks.BlockReader, "__init__", unsized)
    patch.setattr(reader, "read_manifest", lambda where: manifest.parse((where / "manifest.json").read_bytes(), where / "manifest.json"))


def without_hint_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkpointer, "hint_fault", lambda directory: None)


def wrong_hint(directory: Path) -> None:
    (directory / "latest").write_text("../../x\n")


def linked(directory: Path) -> None:
    DAMAGES["a link"](directory / NEWEST / FILES[1])


MUTANTS = {
    "block check": (without_block_check, a_bit_of_data),
    "seal": (without_seal, a_bit_of_the_manifest),
    "size check": (without_size_check, lambda directory: DAMAGES["a byte more"](directory / NEWEST / FILES[1])),
    "O_NOFOLLOW": (lambda patch: patch.setattr(os, "O_NOFOLLOW", 0), linked),
    "hint check": (without_hint_check, wrong_hint),
    "listing": (lambda patch: patch.setattr(reader.Checkpoint, "check_listing", lambda self: None),
                lambda directory: (directory / NEWEST / "rank-00002.safetensors").write_bytes(b"mine")),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_check_is_needed(directory, mutant, monkeypatch):
    """With the check the fault is refused; without it, it goes through."""
    without, fault = MUTANTS[mutant]
    fault(directory)
    with pytest.raises(CheckpointError):
        kept.load(directory, must=True)
    without(monkeypatch)
    assert kept.load(directory, must=True)[0].step == 4


def test_the_names_of_the_rows_are_real(directory):
    assert folder.step_folders(directory) == [directory / NEWEST, directory / OLDER]
