"""What W&B and TensorBoard hold at the end: every step once, nothing secret, nothing outside the run's folder."""

import json

import pytest
from hexareme.core.tracking.secrets import without_secrets
from hexareme.core.tracking.tail import Tail
from hexareme.core.tracking.tracker import Tracker
from hypothesis import given
from hypothesis import strategies as st

from .helpers import loss_of, offline_rows, ours, record


def test_offline_holds_every_step_once_also_after_a_resume(run):
    for first, last in ((1, 100), (51, 130)):
        tracker = Tracker(run, wandb_mode="offline", config={"model": {"num_layers": 2}})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    rows = offline_rows(run)
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(step, loss_of(step)) for step in range(1, 131)]
    assert [row["step"] for row in rows if "validation_loss" in row] == list(range(10, 131, 10))
    ids = {path.name for path in (run / "wandb").glob("offline-run-*/run-*.wandb")}
    assert ids == {f"run-{(run / 'wandb' / 'run_id').read_text().strip()}.wandb"}
    assert not ours(run)


def test_nothing_is_written_outside_the_run(run, scratch):
    record(run, range(1, 4))
    assert Tracker(run, wandb_mode="offline", config={}).close()
    expected = {run, run.parent, run.parents[1] / "home"}
    assert [path for path in run.parents[1].rglob("*") if run not in path.parents and path not in expected] == []
    assert list(scratch.iterdir()) == []


def test_tensorboard_holds_every_step_once_also_after_a_resume(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for first, last in ((1, 40), (21, 60)):
        tracker = Tracker(run, wandb_mode="disabled", tensorboard=True, config={})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert [event.step for event in events.Scalars("training/loss")] == list(range(1, 61))
    assert [event.value for event in events.Scalars("training/loss")] == pytest.approx([loss_of(step) for step in range(1, 61)], rel=1e-6)
    assert [event.step for event in events.Scalars("validation/validation_loss")] == [10, 20, 30, 40, 50, 60]


def test_disabled_starts_no_process(run):
    tracker = Tracker(run, wandb_mode="disabled", config={})
    assert tracker.pid is None
    assert tracker.close()
    assert list(run.iterdir()) == []


def test_online_sends_every_step_once_also_after_a_resume(run, online):
    server = online()
    for first, last in ((1, 30), (16, 45)):
        tracker = Tracker(run, wandb_mode="online", config={"train": {"seed": 5}, "hub_token": "canary-1", "url": "s3://me:canary-2@x/y"})
        record(run, range(first, last + 1), cut=first - 1)
        assert tracker.close()
    rows = [server.history[number] for number in sorted(server.history)]
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(step, loss_of(step)) for step in range(1, 46)]
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30, 40]
    assert server.config["train"]["value"] == {"seed": 5}
    assert "canary" not in server.text
    assert not ours(run)


def test_a_cut_file_is_read_again_from_its_beginning(tmp_path):
    record(tmp_path, range(1, 6))
    tail = Tail(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in tail.rows()] == [1, 2, 3, 4, 5]
    record(tmp_path, [4, 5, 6], cut=3)
    assert [row["step"] for row in tail.rows()] == [1, 2, 3, 4, 5, 6]
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 7, "lo')
        file.flush()
        assert list(tail.rows()) == []
        file.write(b'ss": 1.0}\n')
        file.flush()
        assert [row["step"] for row in tail.rows()] == [7]


SECRETS = {"api_key": "x1", "apiKey": "x2", "WANDB_API_KEY": "x3", "hub": {"token": "x4", "password": "x5"}, "aws-secret": "x6",
           "mirrors": ["https://user:x7@host/path", "postgres://x8@host:5432/db"], "note": "use hf_x9x9x9x9x9x9x9x9x9x9 here"}
HARMLESS = {"tokens_seen": 5, "tokenizer": {"kind": "byte_bpe"}, "max_new_tokens": "many", "vocab_size": 1000, "key": 3, "token": None,
            "url": "https://host/a@b", "keys": "a", "monkey": "b", "auth": {"mode": "none"}}


def test_secrets_are_masked_and_the_rest_is_kept():
    masked = json.dumps(without_secrets(SECRETS))
    assert [f"x{number}" for number in range(1, 10) if f"x{number}" in masked] == []
    assert "https://***@host/path" in masked
    assert without_secrets(HARMLESS) == HARMLESS


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(alphabet="abc @:/", max_size=12),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abc_", max_size=5), inner, max_size=3)))
def test_masking_keeps_the_structure(value):
    masked = without_secrets(value)
    assert type(masked) is type(value)
    assert without_secrets(masked) == masked
