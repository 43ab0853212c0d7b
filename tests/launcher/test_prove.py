"""`hexareme prove` as a user runs it: exit code, table and proof.json; and the project's gate itself."""

import json
import os
import time

import pytest
from hexareme.core.engine.engine import Engine
from hexareme.core.proof import ranks
from hexareme.launcher import cli

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)

SMALL = ["prove", "experiment=debug", "steps=2"]


def prove(words, path, capsys):
    code = cli.main([*words, f"output={path}"])
    return code, json.loads(path.read_text()), capsys.readouterr().out


def test_a_config_that_agrees(tmp_path, capsys):
    shared = set(os.listdir("/dev/shm"))
    code, found, out = prove([*SMALL, "parallel.zero=1"], tmp_path / "proof.json", capsys)
    assert code == 0 and found["agrees"]
    assert [row["layout"] for row in found["layouts"]] == ["dp2, ZeRO-1, micro-batch 2", "dp2, ZeRO-0, micro-batch 2",
                                                           "one process, ZeRO-1, micro-batch 2"]
    for row in found["layouts"]:
        assert row["agrees"] and row["where"] is None and 0 < row["largest_difference"] < 1e-5
        assert row["layout"] in out and "blocks.0.attention.qkv.bias[32:64]" in row["not_compared"]
    assert "3 of 3 layouts agree" in out and "blocks.1.attention.qkv.bias[32:64]" in out
    assert found["steps"] == 2 and found["tolerances"]["first_loss"] == 2e-6 and found["versions"]["deepspeed"]
    assert found["config"]["model"]["num_layers"] == 2 and found["config"]["batch"]["micro_size"] == 2
    assert set(os.listdir("/dev/shm")) <= shared


def test_a_layout_that_differs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Engine, "_global_sum", staticmethod(lambda value, group: float(value) * group.size()))
    code, found, out = prove([*SMALL, "only=dp2"], tmp_path / "proof.json", capsys)
    assert code == 1 and not found["agrees"]
    row = found["layouts"][0]
    assert not row["agrees"] and row["where"].startswith("step 1: ") and row["largest_difference"] > 1e-3
    assert "DISAGREES" in out and row["where"] in out


def test_a_layout_that_crashes(tmp_path, capsys, monkeypatch):
    def crash(*_):
        raise ValueError("parallel.tp=2 cannot")

    monkeypatch.setattr(ranks, "build", crash)
    code, found, _ = prove([*SMALL, "only=dp2, ZeRO-1"], tmp_path / "proof.json", capsys)
    assert code == 1 and found["layouts"][0]["where"] == "ValueError: parallel.tp=2 cannot"
    assert found["layouts"][0]["largest_difference"] is None


def test_a_layout_that_takes_too_long(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "build", lambda *_: time.sleep(600))  # the reference, which builds no engine, has all the time it needs
    code, found, _ = prove([*SMALL, "only=dp2, ZeRO-1", "timeout=8"], tmp_path / "proof.json", capsys)
    assert code == 1 and "did not finish within 8 s" in found["layouts"][0]["where"]


@pytest.mark.parametrize(("words", "reason"), [
    (["parallel.tp=3"], "does not divide model.num_heads=4"), (["train.precision=fp16"], "loss scale"), (["optimizer=lion"], "signs"),
    (["model.sequence_length=50", "parallel.cp=4"], "model.sequence_length=48 or 56"), (["only=tp9"], "the name of no layout"),
])
def test_what_cannot_be_proven_is_refused_with_the_way_out(words, reason, capsys, tmp_path):
    assert cli.main([*SMALL, *words, f"output={tmp_path / 'proof.json'}"]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_quick_part_of_the_gate(tmp_path, capsys):
    code, found, out = prove(["prove", "all=true", "quick=true"], tmp_path / "proof.json", capsys)
    assert code == 0, out
    assert sum(row["agrees"] is True for row in found["layouts"]) >= 20 and sum(row["refused"] is not None for row in found["layouts"]) == 4


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_whole_gate(tmp_path, capsys):
    code, found, out = prove(["prove", "all=true"], tmp_path / "proof.json", capsys)
    assert code == 0, out
    assert sum(row["agrees"] is True for row in found["layouts"]) >= 60
