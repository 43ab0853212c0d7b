"""Whole runs of a pipeline: validation, memory of each stage, and a checkpoint that another layout goes on from."""

import json
import os
from pathlib import Path

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.core.engine.overhead import write_random_corpus
from hexareme.core.oversight import Oversight
from hexareme.core.run import Place, train

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS, HALF = 8, 4
LAYOUTS = {
    "one process": (1, "parallel.zero=0"),
    "PP2, 1f1b": (2, "parallel.pp=2"),
    "PP2, zbv": (2, "parallel.pp=2 parallel.schedule=zbv"),
    "PP2, interleaved": (2, "parallel.pp=2 parallel.schedule=interleaved_zero_bubble parallel.virtual_stages=2"),
    "PP4, gpipe": (4, "parallel.pp=4 parallel.schedule=gpipe"),
    "TP2 x DP2, ZeRO-3": (4, "parallel.tp=2 parallel.zero=3"),
    "TP2 x PP2, dualpipev": (4, "parallel.tp=2 parallel.pp=2 parallel.schedule=dualpipev"),
}
MOVES = [("PP2, 1f1b", "one process"), ("one process", "PP2, zbv")]
MORE_MOVES = [("PP2, zbv", "TP2 x DP2, ZeRO-3"), ("TP2 x DP2, ZeRO-3", "PP2, interleaved"), ("PP2, interleaved", "PP4, gpipe"),
              ("TP2 x PP2, dualpipev", "PP2, 1f1b"), ("PP4, gpipe", "TP2 x PP2, dualpipev"), ("PP2, zbv", "PP2, zbv")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_random_corpus(tmp_path_factory.mktemp("corpus"), vocab_size=512, tokens=1 << 12)


def start(layout, corpus, directory, *overrides):
    """One start of a run on a layout."""
    world_size, chosen = LAYOUTS[layout]
    config = compose("train", [
        "experiment=debug", f"data.train={corpus}", f"data.validation={corpus}", f"run.directory={directory}", "model.dropout=0.1",
        "model.num_layers=5", "model.sequence_length=32", f"train.steps={STEPS}", "batch.global_size=8", "batch.micro_size=1",
        "evaluation.samples=7", "schedule.warmup_steps=2", *chosen.split(), *overrides])

    def rank(number):
        os.environ["LOCAL_RANK"] = str(number)
        Path(directory).mkdir(parents=True, exist_ok=True)
        return train(config, Place(number, world_size, number, torch.device("cpu")), Oversight())

    return run_ranks(rank, world_size, timeout=120)


def rows_of(directory):
    return [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]


def numbers(rows, key):
    return [row[key] for row in rows if key in row]


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    start("one process", corpus, directory, f"evaluation.interval={HALF}")
    return rows_of(directory)


@pytest.mark.parametrize(("before", "after"), [*MOVES, *(pytest.param(*move, marks=pytest.mark.nightly) for move in MORE_MOVES)])
def test_a_run_goes_on_under_another_layout(before, after, corpus, uninterrupted, tmp_path):
    assert set(start(before, corpus, tmp_path, f"train.stop_at={HALF}")) == {"stop_at"}
    assert set(start(after, corpus, tmp_path)) == {"completed"}
    rows = rows_of(tmp_path)
    for key, steps in (("loss", STEPS), ("grad_norm", STEPS), ("validation_loss", 2)):
        assert len(numbers(rows, key)) == steps
        assert numbers(rows, key) == pytest.approx(numbers(uninterrupted, key), rel=1e-5)
    for row in rows:
        pp = 4 if "PP4" in (layout := before if row["step"] <= HALF else after) else 2 if "PP" in layout else 1
        assert "loss" not in row or len(row.get("stage_memory_bytes", [0])) == pp
        assert all(stage > 10 * 1024**2 for stage in row.get("stage_memory_bytes", []))
