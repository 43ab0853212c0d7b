"""inspect corpus=: counts and lengths are exact, a damaged block is named, a preview says what is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.finetune.prepare import prepare_task
from hexareme.data.finetune.settings import TaskRecipe
from hexareme.launcher.commands.inspect import main

from tests.data.finetune.conftest import chat_tokenizer, conversations, write_lines
from tests.data.token_files import write_tokens

__all__ = ["chat_tokenizer"]  # a fixture of another folder


@pytest.fixture(scope="module")
def corpus(chat_tokenizer, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("inspected")
    recipe = TaskRecipe(kind="chat", tokenizer_kind="huggingface", tokenizer_path=str(chat_tokenizer), template="chatml",
                        sequence_length=256)
    return prepare_task([str(write_lines(place / "a.jsonl", conversations(60, median=5)))], place / "corpus", recipe, workers=1).folder


def test_counts_and_samples(corpus, capsys, tmp_path):
    assert main([f"corpus={corpus}", f"output={tmp_path / 'out.json'}"]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    train = found["parts"]["train"]
    assert train["documents"] == sum(row["documents"] for row in train["histogram"]) and train["tokens"] > train["learned_tokens"] > 0
    assert train["lengths"]["mean"] == pytest.approx(train["tokens"] / train["documents"])
    assert len(found["samples"]) == 3 and found["findings"] == []
    assert "tokens learned" in out and "whole: every block was read" in out


def test_percentiles_are_exact(tmp_path, capsys):
    lengths = np.random.default_rng(0).integers(1, 300, 999)
    write_tokens(tmp_path / "t", [[1] * n for n in lengths.tolist()])
    assert main([f"corpus={tmp_path / 't'}", f"output={tmp_path / 'out.json'}"]) == 0
    facts = json.loads((tmp_path / "out.json").read_text())["parts"]["train"]
    for p, value in facts["lengths"]["percentiles"].items():
        assert value == np.percentile(lengths, int(p), method="inverted_cdf")
    assert (facts["lengths"]["least"], facts["lengths"]["most"]) == (lengths.min(), lengths.max())
    for row in facts["histogram"]:
        assert row["documents"] == ((lengths >= row["from"]) & (lengths <= row["to"])).sum()


@pytest.mark.parametrize("name", ["train.mask.bin", "train.rows.bin", "train.bin", "train.idx", "validation.bin"])
def test_a_damaged_block_is_named(name, corpus, capsys):
    file = corpus / name
    good = file.read_bytes()
    try:
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert main([f"corpus={corpus}"]) == 1
        assert f"{name} block 0 (bytes 0 to {len(good)}) does not have its checksum" in capsys.readouterr().out
        file.write_bytes(good[:-1])
        assert main([f"corpus={corpus}"]) == 1
        assert f"{name} has {len(good) - 1} bytes, corpus.json says {len(good)}" in capsys.readouterr().out
    finally:
        file.write_bytes(good)


def test_a_preview_marks_what_is_learned(corpus, capsys, monkeypatch):
    assert main([f"corpus={corpus}", "preview=2"]) == 0
    plain = capsys.readouterr().out
    assert plain.count("=== row") == 2 and "<|im_start|>" in plain and "|<|im_end|>»" in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main([f"corpus={corpus}", "preview=1"]) == 0
    coloured = capsys.readouterr().out
    assert "\x1b[" in coloured and "»" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert main([f"corpus={corpus}", "preview=1"]) == 0
    assert "»" in capsys.readouterr().out
