"""`hexareme bench suite=tokenize`, small: every row is there, ids are equal, and memory is that of the processes themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from hexareme.core.bench import tokenize
from hexareme.core.bench.preparing import Cost
from hexareme.core.bench.real_text import RealText, write_lines
from hexareme.core.bench.tokenize import TOKENIZE, TokenizeSetting, measure_tokenize
from hexareme.launcher import cli


def test_a_small_one_by_the_command(tmp_path, capsys):
    output = tmp_path / "found.json"
    sizes = ["text_bytes=500000", "document_bytes=300000", "rounds=1"]
    cli.main(["bench", "suite=tokenize", *sizes, f"directory={tmp_path}", f"output={output}"])
    rows = {(row["where"], row["what"]): row for row in json.loads(output.read_text())["cases"][0]["rows"]}
    for name in ("tiktoken", "tokenizers"):
        assert rows[name, "ids unlike ours"]["measured"] == 0
    for name in ("Hexareme", "tiktoken", "tokenizers"):
        assert rows[name, "MB a CPU second"]["measured"] > 0.1
    memory = [row["measured"] for (_, what), row in rows.items() if what.startswith("MB of memory")]
    assert len(memory) == 3
    assert all(20 < each < 1000 for each in memory)
    assert "MB a second" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_text_is_real_and_never_the_same_line(tmp_path):
    text = RealText(300_000, seed=0)
    documents = list(text.documents(1_000_000))
    assert 1_000_000 <= sum(len(document.encode()) for document in documents) < 1_100_000
    lines = [line for document in documents for line in document.splitlines() if len(line.split()) > 8]
    assert len(set(lines)) > 0.95 * len(lines)
    lengths = np.array([len(document) for document in documents])
    assert lengths.std() > lengths.mean() / 3
    assert list(RealText(300_000, seed=0).documents(1_000_000)) == documents
    written = write_lines(tmp_path / "x.jsonl", iter(documents))
    assert [json.loads(line)["text"] for line in (tmp_path / "x.jsonl").open()] == documents
    assert written == sum(len(document.encode()) for document in documents)


@pytest.mark.parametrize(("broken", "says"), [
    ("cpu", "CPU seconds over those of the encoder"), ("wall", "seconds over those of 1 worker"),
    ("memory", "MB of memory, a document of 0.1 MB"), ("ids", "ids unlike ours"),
])  # fmt: skip
def test_each_bound_can_be_broken(broken, says, tmp_path: Path, monkeypatch):
    costs = {"short": Cost(1.0, 1.0, 10**8, 10**8), "part": Cost(1.0001, 11.0, 10**8, 10**8), "long": Cost(2.0, 3.0, 10**8, 10**8)}

    def run(text: Path, output: Path, tokenizer: Path, *, workers: int) -> Cost:
        cost = costs["part" if text.stem == "text" else text.stem]
        cpu = 1e6 if broken == "cpu" and text.stem == "part" else cost.cpu
        wall = 6.0 if workers == 2 and text.stem == "part" and broken != "wall" else cost.wall
        return Cost(cpu, wall, 2 * 10**9 if broken == "memory" and text.stem == "long" else cost.memory, cost.largest)

    monkeypatch.setattr(tokenize, "run_prepare", run)
    monkeypatch.setattr(tokenize, "VOCAB_SIZE", 400)
    if broken == "ids":
        original = tokenize._contenders
        monkeypatch.setattr(tokenize, "_contenders", lambda *some: original(*some) | {"tiktoken": lambda texts: [[1, 2, 3]]})
    rows = measure_tokenize(0, TokenizeSetting(100_000, 100_000, 1, tmp_path))
    assert says in {row.what for row in rows if not TOKENIZE.holds(row)}
