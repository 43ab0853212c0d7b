"""Killed at any time and started again, `prepare task=` gives the bytes of an undisturbed run, and does not do again what was done."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from hexareme.data.errors import DataError

from tests.data.prepare.runs import Told, contents
from tests.data.prepare.test_resume import flip, interrupted, until_done

from .runs import TaskRun, task_files

# Where chance holds out nothing, the examples are made again; so it is for pairs.
KINDS = {"chat": 0.1, "classification": 0.1, "preference": 1e-9}
PASSES = {"chat": ["making examples", "packing"], "classification": ["reading the classes", "making examples"],
          "preference": ["making examples", "making examples again"]}


@pytest.fixture(scope="module")
def runs(chat_tokenizer, tmp_path_factory) -> dict[str, TaskRun]:
    """Of each kind one that nobody disturbed."""
    made = {}
    for kind, held_out in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        recipe = {"kind": kind, "tokenizer_kind": "huggingface", "tokenizer_path": str(chat_tokenizer), "template": "chatml",
                  "sequence_length": 256, "held_out": held_out, "reject_limit": 0.01}
        made[kind] = TaskRun(task_files(folder, kind), folder / "corpus", recipe, workers=1)
        made[kind].here(journal_seconds=3600)
    return made


def again(run: TaskRun, output: Path, *, workers: int = 1, pause: float = 0.0) -> TaskRun:
    return TaskRun(run.inputs, output, run.recipe, workers=workers, pause=pause)


@pytest.mark.parametrize(("kind", "kills"), [("chat", 3), ("classification", 2), ("preference", 2)])
def test_kills_at_any_time_change_no_byte(runs, tmp_path, kind, kills):
    run = again(runs[kind], tmp_path / "corpus", workers=2, pause=0.05)
    assert until_done(run, random.Random(kind), results=4, longest=0.2, kills=kills) == kills
    assert contents(run.output) == contents(runs[kind].output)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_kills_change_no_byte(runs, tmp_path, kind, seed):
    run = again(runs[kind], tmp_path / "corpus", workers=1 + seed % 3, pause=0.1)
    until_done(run, random.Random(seed), results=2, longest=1.0, kills=10)
    assert contents(run.output) == contents(runs[kind].output)


@pytest.mark.parametrize("after", [5, 13])  # results, in the first pass and in the second
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_and_nothing_is_done_again(runs, tmp_path, kind, after):
    run, told = again(runs[kind], tmp_path / "corpus"), Told()
    first = interrupted(run, after)
    run.here(progress=told)
    assert "going on where an interrupted prepare was" in told.notes
    assert [phase[0] for phase in told.phases] == PASSES[kind][after > 8 :]
    ((name, total, done), *_) = told.phases
    assert done >= first.advanced[name] // 2 > 0 and done + told.advanced[name] == total  # all but the last result
    assert contents(run.output) == contents(runs[kind].output)


# What is there after so many results.
DAMAGES = [pytest.param(*each, marks=pytest.mark.nightly if nightly else []) for nightly, each in [
    (0, ("chat", 5, "examples/train.bin.writing")), (0, ("chat", 13, "examples/train.mask.bin")), (0, ("chat", 13, "train.rows.bin")),
    (0, ("classification", 5, "classes cut")), (1, ("chat", 13, "examples/train.idx")), (1, ("chat", 5, "tokenizer/tokenizer.json")),
    (1, ("chat", 13, "journal.json")), (1, ("classification", 13, "train.classes cut"))]]


@pytest.mark.parametrize(("kind", "after", "damage"), DAMAGES)
def test_a_damaged_staging_folder_begins_anew_and_is_never_wrong(runs, tmp_path, kind, after, damage):
    run = again(runs[kind], tmp_path / "corpus")
    interrupted(run, after)
    name, _, cut = damage.partition(" ")
    path = run.output / ".preparing" / name
    if cut:
        os.truncate(path, path.stat().st_size // 2)
    else:
        flip(path, min(200, path.stat().st_size // 2))
    told = Told()
    run.here(progress=told)
    assert any("beginning anew" in note for note in told.notes)
    assert contents(run.output) == contents(runs[kind].output)


def test_a_killed_worker_keeps_what_was_done(runs, tmp_path):
    class Kills(Told):
        at = 0.0

        def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
            super().advance(input_bytes, documents, text_bytes)
            if self.phases[-1][0] == "packing" and not self.at:
                self.at = time.monotonic()
                [child for child in psutil.Process().children() if "hexareme.data.prepare.workers" in child.cmdline()][-1].kill()

    run, killer = again(runs["chat"], tmp_path / "corpus", workers=2), Kills()
    run.window = 1000
    with pytest.raises(DataError, match=f"was killed by {signal.SIGKILL.name}"):
        run.here(progress=killer)
    assert any("the same command goes on" in note for note in killer.notes)
    told = Told()
    run.here(progress=told)
    assert [phase[0] for phase in told.phases] == ["packing"]
    reference = again(runs["chat"], tmp_path / "reference")
    reference.window = 1000
    reference.here()
    assert contents(run.output) == contents(reference.output)
