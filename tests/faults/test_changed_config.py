"""Rows B9 and B10: a changed config is refused with each difference, unless it is allowed by name; old checkpoints load for ever."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.folder import step_folders
from hexareme.core.checkpoint.manifest import sealed, unsealed
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.engine.overhead import write_random_corpus
from hexareme.core.errors import CheckpointError
from hexareme.core.inference import load_trained
from hexareme.core.resume import agreed_config, standing

from tests.ranks import run_single

from . import kept
from .rig import SLACK, Run, hashes

MOST_SECONDS = 3.0 * SLACK

# What is changed at the resume -> the overrides, and the keys that the refusal names.
EDITS = {
    "batch size": (["batch.global_size=8"], ["batch.global_size"]),
    "sequence length": (["model.sequence_length=32"], ["model.sequence_length"]),
    "vocabulary": (["model.vocab_size=768"], ["model.vocab_size"]),
    "data blend": (["data.train=[{path: CORPUS, weight: 1.0}, {path: OTHER, weight: 2.0}]"], ["data.train"]),
    "document mask": (["data.document_mask=false"], ["data.document_mask"]),
    "seed": (["train.seed=1"], ["train.seed"]),
    "steps": (["train.steps=50"], ["train.steps"]),
    "clipping": (["train.gradient_clipping=0.5"], ["train.gradient_clipping"]),
    "schedule": (["schedule=linear", "schedule.warmup_steps=3"], ["schedule.name", "schedule.warmup_steps"]),
    "optimizer": (["optimizer=sgd"], ["optimizer.name"]),
    "learning rate": (["optimizer.learning_rate=0.5"], ["optimizer.learning_rate"]),
    "depth": (["model.num_layers=3"], ["model.num_layers"]),
    "dropout": (["model.dropout=0.2"], ["model.dropout"]),
}
ALL_AT_ONCE = [override for overrides, _ in EDITS.values() for override in overrides]


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory) -> Run:
    """A run that stopped at step 2."""
    run = Run(tmp_path_factory.mktemp("stopped"), corpus, "checkpoint.interval=0")
    assert run.start("train.stop_at=2", ranks=1).finish() == 0, run.starts[-1].text()
    return run


@pytest.fixture(scope="module")
def edited(stopped, corpus, tmp_path_factory) -> Callable[[list[str]], list[str]]:
    """Overrides with real corpora in place of their names."""
    other = str(write_random_corpus(tmp_path_factory.mktemp("other"), vocab_size=512, tokens=1 << 12))
    return lambda overrides: [each.replace("CORPUS", corpus).replace("OTHER", other) for each in overrides]


def stand(run: Run, overrides: list[str]) -> Checkpoint | None:
    """What a start of this run would go on from."""
    config = compose("train", [*run.overrides, *overrides])
    checkpointer = Checkpointer(run.directory / "checkpoints", keep=2, rank=0, world_size=1, agree=bool)
    return standing(config, checkpointer, agreed_config(config))


@pytest.mark.parametrize("edit", EDITS)
def test_each_edit_is_refused_by_name_and_can_be_allowed_by_name(stopped, edited, edit):
    overrides, keys = EDITS[edit]
    with pytest.raises(CheckpointError) as raised:
        stand(stopped, edited(overrides))
    message = str(raised.value)
    assert raised.value.exit_code == 4 and all(f"{key} was " in message for key in keys), message
    named = raised.value.do.split("checkpoint.allow_change=")[1]
    assert all(key in named for key in keys)
    found = stand(stopped, [*edited(overrides), f"checkpoint.allow_change={named}"])
    assert found is not None and found.step == 2


def test_a_real_start_names_every_difference_in_time_and_changes_nothing(stopped, edited):
    config = (stopped.directory / "config.yaml").read_bytes()
    begun = time.monotonic()
    start = stopped.start(*edited(ALL_AT_ONCE), ranks=1)
    assert start.finish() == 4
    assert time.monotonic() - begun < MOST_SECONDS
    assert all(f"{key} was " in start.error_lines()[0] for _, keys in EDITS.values() for key in keys)
    assert "filled" not in start.text() and (stopped.directory / "config.yaml").read_bytes() == config


def copied(stopped: Run, new_run: Callable[..., Run]) -> Run:
    run = new_run("run", "checkpoint.interval=0")
    shutil.copytree(stopped.directory, run.directory)
    return run


def test_another_batch_size_goes_on_with_the_very_next_sample(stopped, new_run):
    run = copied(stopped, new_run)
    start = run.start("batch.global_size=8", "checkpoint.allow_change=[batch.global_size]", "train.stop_at=4", ranks=1)
    assert start.finish() == 0, start.text()
    assert run.samples() == {1: [0, 1, 2, 3], 2: [4, 5, 6, 7], 3: list(range(8, 16)), 4: list(range(16, 24))}
    assert [row["samples_seen"] for row in run.metrics()] == [4, 8, 16, 24]


def test_a_model_of_another_shape_is_refused_even_if_allowed(stopped, new_run):
    run = copied(stopped, new_run)
    start = run.start("model.num_layers=3", "checkpoint.allow_change=[model.num_layers]", ranks=1)
    assert start.finish() == 4
    assert "another model" in start.error_lines()[0] and "blocks.2." in start.error_lines()[0]


def test_without_the_comparison_a_change_goes_through(stopped, edited, monkeypatch):
    """The mutant of B9."""
    monkeypatch.setattr("hexareme.core.resume.require_agreement", lambda *_, **__: None)
    assert stand(stopped, edited(ALL_AT_ONCE)) is not None


def test_the_kept_checkpoint_of_version_1_loads_bit_for_bit():
    """B10."""
    expected = kept.expected()
    checkpoint = Checkpoint.open(kept.KEPT / kept.NEWEST)
    assert (checkpoint.step, checkpoint.samples_seen) == (expected["step"], expected["samples_seen"])
    checkpoint.verify()
    assert {f"{name}:{kind}": value for (name, kind), value in hashes(checkpoint.folder).items()} == expected["tensors"]


def fill_todays_model(_: int) -> None:
    path = kept.KEPT / kept.NEWEST
    trained = load_trained(path, compose("evaluate", []).parallel, device=torch.device("cpu"))
    saved = Checkpoint.open(path)
    for name, parameter in trained.model.transformer.named_parameters():
        assert parameter.detach().equal(saved.read_tensor(name)), name


def test_the_kept_checkpoint_fills_todays_model():
    """B10: the names and shapes of its tensors are still ours."""
    run_single(fill_todays_model, timeout=60)


@pytest.mark.parametrize("version", [2, 0])
def test_another_version_is_refused_by_name(tmp_path: Path, version):
    """B10."""
    directory = kept.copy_kept(tmp_path)
    path = step_folders(directory)[0] / "manifest.json"
    path.write_bytes(sealed(unsealed(path.read_bytes(), path) | {"version": version}))
    with pytest.raises(CheckpointError, match=f"version {version}"):
        kept.load(directory, must=True)
    with pytest.raises(CheckpointError, match=f"version {version}"):
        kept.load(directory, must=False)
