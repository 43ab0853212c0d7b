"""Whole runs, in forked ranks: resume on the same layout bit for bit, on any other within rounding, weights only, and what is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.core.engine.overhead import write_random_corpus
from hexareme.core.errors import CheckpointError, FolderInUseError, Preempted, StorageError
from hexareme.core.oversight import Oversight
from hexareme.core.run import Place, train
from hexareme.data.errors import DataError

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import RankError, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_random_corpus(tmp_path_factory.mktemp("corpus"), vocab_size=512, tokens=1 << 15)


def config_of(corpus, directory, *overrides):
    return compose("train", [
        "experiment=debug", f"data.train={corpus}", "data.validation=none", f"run.directory={directory}", "model.dropout=0.1",
        f"train.steps={STEPS}", "checkpoint.interval=4", "batch.global_size=8", "batch.micro_size=2", "schedule.warmup_steps=2",
        "tracking.console_interval=100", *overrides,
    ])


def whole_run(rank, config, world_size, stop_after):
    """One start of a run; `stop_after` samples asked for from outside mean a signal to rank 1 (or to the only rank)."""
    os.environ["LOCAL_RANK"] = str(rank)
    Path(config.run.directory).mkdir(parents=True, exist_ok=True)
    asked = 0

    def stop_requested():
        nonlocal asked
        asked += 1
        return rank == world_size - 1 and asked == stop_after

    return train(config, Place(rank, world_size, rank, torch.device("cpu")), Oversight(stop_requested=stop_requested))


def start(config, world_size=2, stop_after=0):
    return run_ranks(whole_run, world_size, config, world_size, stop_after, timeout=120)[0]


def steps_of(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["grad_norm"], row["learning_rate"]) for row in rows if "loss" in row}


LAYOUTS = {
    "one process, ZeRO-0": (1, "parallel.zero=0"),
    "DP2, ZeRO-0": (2, "parallel.zero=0"),
    "DP2, ZeRO-1": (2, "parallel.zero=1"),
    "DP2, ZeRO-2, optimizer in host memory": (2, "parallel.zero=2 parallel.offload=optimizer"),
    "DP2, ZeRO-3": (2, "parallel.zero=3"),
    "TP2, ZeRO-1": (2, "parallel.tp=2"),
    "TP2 x DP2, ZeRO-3": (4, "parallel.tp=2 parallel.zero=3"),
}


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    assert start(config_of(corpus, directory)) == "completed"
    return steps_of(directory)


OTHERS = {
    "one process, muon": (1, "parallel.zero=0 optimizer=muon"),
    "DP2, sgd with momentum, ZeRO-1": (2, "parallel.zero=1 optimizer=sgd"),
    "DP2, fp16 with its loss scale, ZeRO-1": (2, "parallel.zero=1 train.precision=fp16"),
    "DP2, fp16 with its loss scale, ZeRO-3": (2, "parallel.zero=3 train.precision=fp16"),
    "DP2, bf16, ZeRO-2": (2, "parallel.zero=2 train.precision=bf16"),
}


@pytest.mark.parametrize("name", [*LAYOUTS, *OTHERS])
def test_a_resume_on_the_same_layout_is_bit_identical(name, corpus, tmp_path):
    world_size, overrides = (LAYOUTS | OTHERS)[name]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    start(config_of(corpus, whole, *overrides.split()), world_size)
    assert start(config_of(corpus, halves, "train.stop_at=5", *overrides.split()), world_size) == "stop_at"
    start(config_of(corpus, halves, *overrides.split()), world_size)
    assert steps_of(halves) == steps_of(whole)


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_goes_on_from_data_parallel_and_back(name, corpus, tmp_path, uninterrupted):
    """DP2 ZeRO-1 for 4 steps, the other layout for 4, DP2 ZeRO-1 again: one course."""
    world_size, overrides = LAYOUTS[name]
    start(config_of(corpus, tmp_path, "train.stop_at=4"))
    start(config_of(corpus, tmp_path, "train.stop_at=8", *overrides.split()), world_size)
    start(config_of(corpus, tmp_path))
    found = steps_of(tmp_path)
    assert found.keys() == uninterrupted.keys()
    for step, values in found.items():
        assert values == pytest.approx(uninterrupted[step], rel=1e-5), f"step {step}"


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_three_ranks_are_one_process(zero, corpus, tmp_path):
    """DeepSpeed pads its partitions where the data degree does not divide a group's size."""
    batch = ("batch.global_size=6", "batch.micro_size=1", "train.steps=4", f"parallel.zero={zero}")
    start(config_of(corpus, tmp_path / "one", *batch), 1)
    start(config_of(corpus, tmp_path / "three", *batch), 3)
    one, three = steps_of(tmp_path / "one"), steps_of(tmp_path / "three")
    assert one.keys() == three.keys()
    for step, values in three.items():
        assert values == pytest.approx(one[step], rel=1e-5), f"step {step}"


def test_a_stop_asked_of_one_rank_saves_once_on_all_and_loses_nothing(corpus, tmp_path, uninterrupted):
    with pytest.raises(RankError, match=Preempted.__name__):
        start(config_of(corpus, tmp_path), stop_after=7)  # the ranks ask once before the first step, too
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000004", "step-00000006"]
    start(config_of(corpus, tmp_path))
    assert steps_of(tmp_path) == uninterrupted


def test_initialize_from_takes_the_weights_and_nothing_else(corpus, tmp_path):
    start(config_of(corpus, tmp_path / "first"))
    config = config_of(corpus, tmp_path / "second", f"train.initialize_from={tmp_path / 'first'}")
    start(config)
    first, second = steps_of(tmp_path / "first"), steps_of(tmp_path / "second")
    assert second.keys() == first.keys()
    assert second[1][0] < first[1][0] - 0.01  # the trained weights
    assert second[1][2] == first[1][2]  # but the schedule from its beginning


def test_a_damaged_newest_checkpoint_is_passed_over(corpus, tmp_path, uninterrupted):
    start(config_of(corpus, tmp_path, "train.stop_at=8"))
    shard = tmp_path / "checkpoints/step-00000008/rank-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    start(config_of(corpus, tmp_path))
    assert steps_of(tmp_path) == uninterrupted


@pytest.mark.parametrize(("overrides", "error", "says"), [
    ("model.num_layers=3", CheckpointError, "model.num_layers was 2 and is 3"),
    ("train.seed=1", CheckpointError, "train.seed was 0 and is 1"),
    ("optimizer=sgd", CheckpointError, "optimizer.name was 'adamw' and is 'sgd'"),
    ("checkpoint.resume=never", FolderInUseError, "checkpoint.resume=never"),
    ("model.vocab_size=64", CheckpointError, "model.vocab_size was 512 and is 64"),
])
def test_a_folder_of_another_run_is_refused_and_left_as_it_was(overrides, error, says, corpus, tmp_path):
    start(config_of(corpus, tmp_path, "train.stop_at=1"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RankError, match=error.__name__) as caught:
        start(config_of(corpus, tmp_path, *overrides.split()))
    assert says in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_allowed_change_goes_on_at_the_exact_sample(corpus, tmp_path):
    start(config_of(corpus, tmp_path, "data.audit=true", "train.stop_at=4"))
    start(config_of(corpus, tmp_path, "data.audit=true", "train.stop_at=6", "batch.global_size=16",
                    "checkpoint.allow_change=[batch.global_size]"))
    samples = [json.loads(line)["sample"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert sorted(samples) == list(range(64))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["samples_seen"] for row in rows] == [8, 16, 24, 32, 48, 64]


def test_the_audit_names_every_sample_once_also_after_a_kill(corpus, tmp_path):
    start(config_of(corpus, tmp_path, "data.audit=true", "train.stop_at=5"))
    with (tmp_path / "samples.jsonl").open("a") as log:
        log.write('{"step": 6, "rank": 0, "sample": 40, "source": 0, "documents": [1]}\n{"step": 6, "ra')  # killed in step 6
    start(config_of(corpus, tmp_path, "data.audit=true", "parallel.tp=2"), 2)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert sorted(row["sample"] for row in rows) == list(range(STEPS * 8))
    assert all(row["step"] == row["sample"] // 8 + 1 and row["documents"] for row in rows)


def test_resume_must_needs_a_checkpoint(corpus, tmp_path):
    with pytest.raises(RankError, match="no checkpoint"):
        start(config_of(corpus, tmp_path, "checkpoint.resume=must"))


def test_an_id_outside_the_vocabulary_names_its_place(corpus, tmp_path):
    with pytest.raises(RankError, match=DataError.__name__) as caught:
        start(config_of(corpus, tmp_path, "model.vocab_size=64"))
    assert "model.vocab_size=64" in str(caught.value) and "document" in str(caught.value)


def test_a_disk_without_room_is_found_before_the_first_step(corpus, tmp_path, monkeypatch):
    """The real disk here is large; a real full one is in tests/launcher/test_wrong_inputs.py."""
    monkeypatch.setattr("hexareme.core.engine.state.EngineState.bytes_written", lambda self: 10**18)
    with pytest.raises(RankError, match=StorageError.__name__):
        start(config_of(corpus, tmp_path))
    assert not (tmp_path / "checkpoints").exists()
