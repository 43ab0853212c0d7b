"""`hexareme inspect`: what it prints of whole and damaged checkpoints, and its exit codes."""

import json
from pathlib import Path

import pytest
from hexareme.launcher import cli

from tests.faults.kept import NEWEST, copy_kept


@pytest.fixture
def run(tmp_path: Path) -> Path:
    copy_kept(tmp_path)
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_says_what_it_holds(run, capsys):
    output = run / "found.json"
    assert cli.main(["inspect", f"checkpoint={run / 'checkpoints' / NEWEST}", "verify=true", "filter=*attention*", f"output={output}"]) == 0
    printed = capsys.readouterr().out
    for words in ("step 4, 16 samples seen", "exp_avg_sq", "rank-00001.safetensors", "model.hidden_size = 8", "written_by.layout: tp 2",
                  "every block was read and checked"):
        assert words in printed
    assert "blocks.0.attention.qkv.weight" in printed and "final_norm" not in printed
    found = json.loads(output.read_text())
    assert found["step"] == 4 and found["findings"] == [] and len(found["files"]) == 2
    assert found["kinds"][0]["kind"] == "parameter"
    assert {each["name"] for each in found["tensors"]} >= {"blocks.0.attention.qkv.weight", "blocks.0.attention.output.bias"}


def test_every_damage_is_named_not_only_the_first(run, capsys):
    folder = run / "checkpoints" / NEWEST
    for name in ("rank-00000.safetensors", "rank-00001.safetensors"):
        flip(folder / name)
    assert cli.main(["inspect", f"checkpoint={folder}"]) == 0  # sizes are right
    assert cli.main(["inspect", f"checkpoint={folder}", "verify=true"]) == 1
    (folder / "extra").write_text("x")
    assert cli.main(["inspect", f"checkpoint={folder}", "verify=true"]) == 1
    printed = capsys.readouterr().out
    assert "3 findings" in printed
    for name in ("rank-00000.safetensors: block 0", "rank-00001.safetensors: block 0", "'extra'"):
        assert name in printed


@pytest.mark.parametrize("key", ["directory", "checkpoint"])
def test_a_run_says_which_of_its_checkpoints_are_whole(run, capsys, key):
    flip(run / "checkpoints" / NEWEST / "rank-00000.safetensors")
    (run / "checkpoints" / "latest").write_text("nonsense")
    output = run / "found.json"
    assert cli.main(["inspect", f"{key}={run}", "verify=true", f"output={output}"]) == 1
    printed = capsys.readouterr().out
    assert "2 checkpoints, newest whole: " in printed and printed.splitlines()[0].endswith("step-00000002")
    assert "fails its checksum" in printed and "latest" in printed
    found = json.loads(output.read_text())
    assert found["newest_whole"].endswith("step-00000002") and len(found["findings"]) == 2


def test_a_damaged_manifest_is_a_finding(run, capsys):
    flip(run / "checkpoints" / NEWEST / "manifest.json")
    assert cli.main(["inspect", f"checkpoint={run / 'checkpoints' / NEWEST}"]) == 1
    assert "manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code", "told"), [
    (["corpus=x"], 3, "x"),
    (["preview=3", "checkpoint=a"], 2, "corpus is empty"),
    (["directory=runs/x", "step=3"], 2, "cannot be read"),
    (["checkpoint=runs/x", "step=3"], 2, "directory is empty"),
    ([], 2, "all empty"),
    (["checkpoint=a", "directory=b"], 2, "both given"),
    (["checkpoint=/nowhere"], 4, "no checkpoint folder"),
])
def test_what_cannot_be_looked_at(words, code, told, capsys):
    assert cli.main(["inspect", *words]) == code
    assert told in capsys.readouterr().err
