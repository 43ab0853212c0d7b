"""Killed at any time and started again, `prepare` gives the bytes of a run that nobody killed, and does not do again what was done."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from hexareme.data.errors import DataError
from hexareme.data.prepare import passes
from hexareme.data.prepare.prepare import Prepared
from hexareme.data.tokens.token_file import open_corpus

from tests.core.checkpoint.disks import on_own_disk, remount
from tests.data.prepare.runs import Run, Told, contents, documents, write_lines


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> Path:
    """Seven chunks of 1 MiB, a tenth of it text, with one bad record."""
    file = write_lines(tmp_path_factory.mktemp("input") / "a.jsonl", documents(1400, size=500), other=4_500)
    with file.open("a") as stream:
        stream.write("{\n")
    return file


PATHS = ("prepare.json",)  # remembers which tokenizer was given
TRAINED = {"tokenizer_kind": "byte_bpe", "vocab_size": 400, "held_out": 0.1}


@pytest.fixture(scope="module")
def references(lines, tmp_path_factory) -> dict[bool, Prepared]:
    """Without and with cleaning."""
    folder = tmp_path_factory.mktemp("references")
    return {clean: Run([str(lines)], folder / f"{clean}", TRAINED, clean=clean, workers=2).here() for clean in (False, True)}


@pytest.fixture(scope="module")
def existing(references) -> dict[str, object]:
    """A recipe with the tokenizer of the references: no pass for its training."""
    return {"tokenizer_kind": "huggingface", "tokenizer_path": str(references[True].folder / "tokenizer"), "held_out": 0.1}


def same(folder: Path, reference: Prepared, *, but: tuple[str, ...] = ()) -> bool:
    found, expected = contents(folder), contents(reference.folder)
    return {k: v for k, v in found.items() if k not in but} == {k: v for k, v in expected.items() if k not in but}


def until_done(run: Run, generator: random.Random, *, results: int, longest: float, kills: int) -> int:
    """Kills it so often, each time a random while after a random number of results; then lets it end."""
    for count in range(kills):
        if not run.killed_after(generator.randint(0, results), generator.uniform(0, longest)):
            return count
    run.pause = 0
    assert not run.killed_after(1000, 120)
    return kills


@pytest.mark.parametrize("clean", [False, True])
def test_kills_at_any_time_change_no_byte(lines, references, tmp_path, clean):
    run = Run([str(lines)], tmp_path / "corpus", TRAINED, clean=clean, workers=2, pause=0.05)
    assert until_done(run, random.Random(clean), results=1 + clean, longest=0.1, kills=8) >= 6
    assert same(run.output, references[clean])


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_kills_change_no_byte(lines, references, tmp_path, seed):
    clean = bool(seed % 2)
    run = Run([str(lines)], tmp_path / "corpus", TRAINED, clean=clean, workers=1 + seed % 3, pause=0.1)
    until_done(run, random.Random(100 + seed), results=0, longest=4.0, kills=10)
    assert same(run.output, references[clean])


class Interrupt(Exception):
    """As Ctrl-C would."""


class Stops(Told):
    """Raises at the n-th result."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        super().advance(input_bytes, documents, text_bytes)
        self._left -= self.phases[-1][0] != "looking for duplicates"
        if not self._left:
            raise Interrupt


def interrupted(run: Run, after: int) -> Stops:
    told = Stops(after)
    with pytest.raises(Interrupt):
        run.here(progress=told)
    assert (run.output / ".preparing" / "journal.json").exists()
    assert not (run.output / "corpus.json").exists()
    return told


@pytest.fixture(scope="module")
def half_done(lines, existing, tmp_path_factory) -> tuple[Path, Stops]:
    """What an interruption in the second pass leaves, to be copied; and how far it was."""
    run = Run([str(lines)], tmp_path_factory.mktemp("half") / "corpus", existing, clean=True)
    first = interrupted(run, 11)
    assert [name for name, _, _ in first.phases] == ["cleaning", "looking for duplicates", "tokenizing"]
    return run.output, first


@pytest.fixture
def goes_on(half_done, lines, existing, tmp_path) -> Run:
    """The run that was interrupted, in a folder of its own."""
    return Run([str(lines)], Path(shutil.copytree(half_done[0], tmp_path / "corpus")), existing, clean=True)


def test_what_was_done_is_not_done_again(half_done, goes_on, references):
    run, first, told = goes_on, half_done[1], Told()
    run.here(progress=told)
    ((name, total, done),) = told.phases
    assert name == "tokenizing" and done >= first.advanced["tokenizing"] // 2 > 0  # all but the last result
    assert done + told.advanced["tokenizing"] == total
    assert "going on where an interrupted prepare was" in told.notes
    assert same(run.output, references[True], but=PATHS)


def test_another_recipe_or_input_begins_anew(lines, existing, tmp_path):
    run = Run([str(lines)], tmp_path / "corpus", existing)
    for change in ({"held_out": 0.2}, {}):
        interrupted(Run([str(lines)], tmp_path / "corpus", existing), 3)
        if not change:
            os.utime(lines, ns=(time.time_ns(), time.time_ns()))
        run.recipe = {**existing, **change}
        told = Told()
        run.here(progress=told, overwrite=True)
        assert [phase[2] for phase in told.phases] == [0] and told.advanced["tokenizing"] == told.phases[0][1]
        assert any("beginning anew" in note for note in told.notes)
        shutil.rmtree(run.output)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["journal.json", "journal.json cut", "store", "store cut", "verdict", "train.bin.writing",
                                    "train.idx.writing", "validation.bin.writing cut", "tokenizer/tokenizer.json"])
def test_a_damaged_staging_folder_begins_anew_and_is_never_wrong(goes_on, references, damage):
    name, _, cut = damage.partition(" ")
    run, path = goes_on, goes_on.output / ".preparing" / name
    if cut:
        os.truncate(path, path.stat().st_size // 2)
    else:
        flip(path, path.stat().st_size - 9 if name == "store" else 200 if name.startswith("train") else path.stat().st_size // 2)
    told = Told()
    run.here(progress=told)
    assert any("beginning anew" in note for note in told.notes)
    assert same(run.output, references[True], but=PATHS)


def test_a_death_between_two_moves_is_gone_over(lines, references, existing, tmp_path, monkeypatch):
    """Every state that the commit passes through is one from which the next call ends it."""
    replace, states = os.replace, tmp_path / "states"
    run = Run([str(lines)], tmp_path / "corpus", existing, clean=True)

    def keeps_each_state(old, new):
        if Path(new).parent == run.output:
            shutil.copytree(run.output, states / str(len(list(states.glob("*")))))
        replace(old, new)

    states.mkdir()
    monkeypatch.setattr(os, "replace", keeps_each_state)
    run.here()
    monkeypatch.undo()
    finished = contents(run.output)
    assert same(run.output, references[True], but=PATHS)
    assert len(list(states.iterdir())) >= 8  # two token files, tokenizer, rejects, record, two reports
    for state in states.iterdir():
        with pytest.raises(DataError, match="no finished corpus"):
            open_corpus(state, "train")
        shutil.rmtree(run.output)
        state.rename(run.output)
        told = Told()
        run.here(progress=told)
        assert not told.phases
        assert contents(run.output) == finished


def test_a_killed_worker_keeps_what_was_done(lines, references, existing, tmp_path):
    class Kills(Told):
        at = 0.0

        def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
            super().advance(input_bytes, documents, text_bytes)
            if len(self.phases) == 3 and not self.at:
                self.at = time.monotonic()
                [child for child in psutil.Process().children() if "hexareme.data.prepare.workers" in child.cmdline()][-1].kill()

    run, killer = Run([str(lines)], tmp_path / "corpus", existing, clean=True, workers=2), Kills()
    with pytest.raises(DataError, match=f"was killed by {signal.SIGKILL.name}"):
        run.here(progress=killer)
    assert time.monotonic() - killer.at < 5
    assert any("the same command goes on" in note for note in killer.notes)
    told = Told()
    run.here(progress=told)
    assert told.phases[0][0] == "tokenizing"
    assert same(run.output, references[True], but=PATHS)


@pytest.mark.parametrize("kibibytes", [500, 1200])
def test_a_full_disk_keeps_what_was_done(lines, references, existing, tmp_path, kibibytes):
    """It is full within the cleaning, or as duplicates are looked for."""
    disk = tmp_path / "disk"

    def fill() -> list[str]:
        run, told = Run([str(lines)], disk / "corpus", existing, clean=True), Told()
        try:
            run.here(progress=told)
            return ["it was not full"]
        except OSError as error:
            assert error.errno == 28, error
        assert not (run.output / "corpus.json").exists()
        remount(disk, size=200 << 20)
        again = Told()
        run.here(progress=again)
        wrong = [] if same(run.output, references[True], but=PATHS) else ["other bytes"]
        return wrong + ([] if again.phases[0][2] or again.phases[0][0] != "cleaning" else [f"all again: {again.phases}"])

    assert on_own_disk(disk, kibibytes << 10, fill) == []


def test_the_journal_is_written_now_and_then_only(lines, existing, tmp_path, monkeypatch):
    saved: list[str] = []
    save = passes.Journal.save
    monkeypatch.setattr(passes.Journal, "save", lambda self, name, at: (saved.append(name), save(self, name, at)))
    Run([str(lines)], tmp_path / "a", existing).here(journal_seconds=3600)
    assert not saved
    Run([str(lines)], tmp_path / "b", existing).here(journal_seconds=0)
    assert len(saved) >= 7
    assert json.loads((tmp_path / "a" / "corpus.json").read_text()) == json.loads((tmp_path / "b" / "corpus.json").read_text())
