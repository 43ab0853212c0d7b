"""Rows E1 and E4 on real ranks: an id beyond the vocabulary, what the check costs, and a token file that changes while a run reads it."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hexareme.core import corpora
from hexareme.core.engine.overhead import write_random_corpus
from hexareme.core.trainer import Trainer
from hexareme.data.samples.windows import Windows

from .planted import replaced
from .rig import SLACK, Run
from .warm import go

BAD = 300  # the id, of a vocabulary of 256


@pytest.fixture
def own_corpus(corpus: str, tmp_path: Path) -> Path:
    """A copy that may be harmed; its prefix."""
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{corpus}{suffix}", tmp_path / f"mine{suffix}")
    return tmp_path / "mine"


@pytest.fixture
def narrow_corpus(tmp_path: Path) -> str:
    """All ids below 256, but one that is met in the first steps."""
    prefix = write_random_corpus(tmp_path, vocab_size=256, tokens=1 << 12)
    ids = np.fromfile(f"{prefix}.bin", np.uint16)
    ids[1500:1508] = BAD
    ids.tofile(f"{prefix}.bin")
    return prefix


def test_e1_an_id_beyond_the_vocabulary_is_the_same_error_at_every_tp(new_run, narrow_corpus):
    blind = replaced(corpora, "corpus_rules", lambda *arguments, **named: iter(()))  # nobody saw it before the start
    told = []
    for tp in (1, 2):
        run: Run = new_run(f"tp{tp}", f"data.train={narrow_corpus}", "model.vocab_size=256", f"parallel.tp={tp}", "checkpoint.interval=0")
        start = run.start(ranks=tp, prepare=blind)
        assert start.finish() == 3, start.text()
        [line] = start.error_lines()
        found = re.search(r"step=\d+ (\S+\.bin holds the id 300 \(document 1, offset \d+\), but model.vocab_size=256)", line)
        assert found, line
        told.append(found[1])
        assert run.exit_json()["code"] == 3
    assert told[0] == told[1]


def timing(trainer: Trainer) -> dict[str, list[float]]:
    """From now on, for each step of this rank: CPU seconds of the step, those of the check in it, and how many ids that saw."""
    found: dict[str, list[float]] = {"step": [], "check": [], "ids": []}
    step, check = trainer.train_one_step, Windows._check_ids

    def timed_step() -> Any:
        begin = time.process_time()
        result = step()
        found["step"].append(time.process_time() - begin)
        return result

    def timed_check(windows: Windows, files: Any, ids_BW: np.ndarray, *places: np.ndarray) -> None:
        begin = time.process_time()
        check(windows, files, ids_BW, *places)
        found["check"].append(time.process_time() - begin)
        found["ids"].append(ids_BW.size)

    trainer.train_one_step = timed_step
    Windows._check_ids = timed_check  # of this process, which ends with the case
    return found


def test_e1_the_check_of_ids_costs_less_than_a_hundredth_of_a_step(new_run):
    """Of the smallest model that anybody trains, the worst case: the check is by tokens, all else by tokens times parameters."""
    run: Run = new_run("run", "checkpoint.interval=0", "data.workers=0")  # so that the check lies in the step, whole
    [found] = go(run, ranks=1, at_once=timing)
    assert found["ids"] == [4 * 65] * 40  # every id of every step, the last targets as well
    share = sum(found["check"][2:]) / sum(found["step"][2:])  # the first steps warm up
    assert 0 < share < 0.01, f"{share:.3%}"


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def rewrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"\x01\x00")


def replace(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".other"))
    path.with_suffix(".other").replace(path)


HARM = {"truncated": (cut, ".bin", "was truncated while in use"), "written": (rewrite, ".bin", "was written to while in use"),
        "replaced": (replace, ".bin", "was replaced or deleted while in use"), "index": (cut, ".idx", "was truncated while in use")}


@pytest.mark.parametrize("name", ["truncated", *(pytest.param(each, marks=pytest.mark.nightly) for each in list(HARM)[1:])])
def test_e4_a_token_file_that_changes_under_a_run_is_error_3_within_a_step(new_run, own_corpus, name):
    harm, suffix, says = HARM[name]
    run: Run = new_run("run", f"data.train={own_corpus}", "train.steps=4000", "checkpoint.interval=0", "data.workers=0")
    start = run.start()
    start.await_step(3)
    harm(own_corpus.with_suffix(suffix))
    step, begin = run.last_step(), time.monotonic()
    assert start.finish() == 3, start.text()
    assert run.last_step() <= step + 2  # the one that was being written down, and one that had its batch
    assert time.monotonic() - begin < 10 * SLACK
    assert any(says in line and line.startswith("ERROR 3 ") for line in start.error_lines()), start.text()
    assert run.exit_json()["code"] == 3


@pytest.mark.nightly
def test_the_middle_of_a_pipeline_reads_no_ids_and_changes_nothing(new_run):
    losses = []
    for pp in (1, 4):
        run: Run = new_run(f"pp{pp}", "model.num_layers=4", f"parallel.pp={pp}", "train.steps=4", "checkpoint.interval=0",
                           "model.dropout=0")
        start = run.start(ranks=pp)
        assert start.finish() == 0, start.text()
        losses.append([float(line["loss"]) for line in run.metrics() if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 4
