"""`hexareme bench suite=data`, small: every row is there, and each bound can be broken."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hexareme.core.bench import data
from hexareme.core.bench.data import DATA, DataSetting, measure_data, write_corpus
from hexareme.data.tokens.token_file import TokenFile
from hexareme.launcher import cli


def test_a_small_one_by_the_command(tmp_path, capsys):
    output = tmp_path / "found.json"
    words = ["tokens=1000000", "documents=5000", "sequence_length=256", "samples=256", f"directory={tmp_path}", f"output={output}"]
    code = cli.main(["bench", "suite=data", *words])
    rows = {(row["where"], row["what"]): row for row in json.loads(output.read_text())["cases"][0]["rows"]}
    assert code == (0 if all(row["holds"] for row in rows.values()) else 1)
    assert {where for where, _ in rows} == {"Hexareme", "Megatron-core", "nanoGPT"}
    for what in ("stamped opening and a first sample, ms", "bytes of indices written"):
        assert rows["Hexareme", what]["holds"], rows
    assert rows["Megatron-core", "bytes of its index on disk"]["measured"] > 0
    assert "CPU us a sample" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_a_corpus_of_the_asked_size(tmp_path):
    write_corpus(tmp_path / "c", tokens=1_000_000, documents=4_000)
    file = TokenFile(tmp_path / "c")
    lengths = np.diff(file.document_starts)
    assert file.num_documents == 4_000 and 1_000_000 <= file.num_tokens <= 1_004_000
    assert lengths.min() >= 1 and lengths.std() > lengths.mean() / 2  # as real ones: a few are long


@pytest.mark.nightly
@pytest.mark.parametrize("broken", ["slow", "index", "memory"])
def test_each_bound_can_be_broken(tmp_path: Path, monkeypatch, broken):
    original, kept = data.TrainingSet.batch, []

    def batch(self, indices, *arguments):
        if broken == "slow":
            end = time.process_time() + 0.03
            while time.process_time() < end:
                pass
        elif broken == "index":
            (tmp_path / f"{time.monotonic_ns()}.npy").write_bytes(bytes(10))
        elif self.files[0].prefix.name == "large":
            kept.append(np.ones(2**24))  # 128 MiB: more than what earlier work has left in the heap
        return original(self, indices, *arguments)

    monkeypatch.setattr(data.TrainingSet, "batch", batch)
    monkeypatch.setattr(data, "_loading", lambda *_: [])
    rows = measure_data(0, DataSetting(200_000, 1000, 128, 64, tmp_path))
    wrong = {row.what for row in rows if not DATA.holds(row)}
    says = {"slow": "bulk reads of 64: CPU us a sample", "index": "bytes of indices written",
            "memory": "private memory at 0.2 M tokens, kB"}
    assert says[broken] in wrong
