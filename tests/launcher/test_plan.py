"""`hexareme plan`: every problem at once, the picture and the counts, in a second and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hexareme.launcher import cli
from hexareme.launcher.help import EXAMPLES


def plan(tmp_path: Path, *words: str) -> dict:
    output = tmp_path / "plan.json"
    assert cli.run(["plan", *words, f"output={output}"]) == 0
    found = json.loads(output.read_text())
    assert isinstance(found, dict)
    return found


def test_a_plan_says_who_holds_what_and_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(tmp_path, "experiment=llama_8b", "parallel.tp=4", "parallel.pp=2", "parallel.zero=1", "ranks=64",
                 "cluster.ranks_per_node=8")
    assert found["axes"] == {"pp": 2, "dp": 8, "cp": 1, "tp": 4, "ep": 1}
    assert (found["ranks"], found["nodes"], found["tensor_axis_inside_node"]) == (64, 8, True)
    assert found["parameters"] == 8_030_261_248  # as Meta counts Llama 3 8B
    assert [(stage["pp"], stage["embedding"], stage["head"]) for stage in found["stages"]] == [(0, True, False), (1, False, True)]
    assert found["stages"][0]["layers"][0] == 0 and found["stages"][1]["layers"][1] == 31
    last = found["rank"][63]
    assert (last["node"], last["pp"], last["dp"], last["tp"], last["zero_piece"]) == (7, 1, 7, 3, 7)
    assert (last["heads"], last["kv_heads"], last["vocabulary"]) == ([24, 31], [6, 7], [96192, 128255])
    # what the four tensor ranks of both stages hold is the model, and what they hold alike three times more: the norms
    norms = (2 * 32 + 1) * 4096
    assert 4 * sum(place["parameters"] for place in found["places"]) == found["parameters"] + 3 * norms
    # full recomputation keeps the input of each block, on a quarter of the tokens, of two micro-batches on the first stage and of one on
    # the last; for the messages torch keeps one buffer of each of 64 micro-batches
    stream, kept = 8192 // 4 * 4096 * 4, [place["activation_bytes"] for place in found["places"]]
    assert [(each["residual"], each["messages"]) for each in kept] == [(2 * 18 * stream, 64 * stream), (15 * stream, 64 * stream)]
    out = capsys.readouterr().out
    assert out.startswith("64 ranks on 8 nodes: pp 2 x dp 8 x tp 4; ZeRO-1: optimizer state in 8 pieces\ntp inside a node; pp, dp across")
    assert "8,030,261,248 parameters" in out and "<- parallel.zero" in out


def test_state_bytes_are_those_of_each_zero_stage_that_is_allowed(tmp_path: Path) -> None:
    """AdamW in fp32: 16 bytes a parameter, of which each stage cuts more; Rajbhandari et al. 2020, figure 1, with fp32 parameters."""
    found = plan(tmp_path, "experiment=gpt2_124m", "ranks=4", "parallel.zero=2")
    count, states = found["parameters"], found["places"][0]["state_bytes"]
    assert list(states) == ["zero_0", "zero_1", "zero_2", "zero_3"]
    assert states["zero_0"]["total"] == 16 * count
    assert states["zero_1"]["total"] == pytest.approx((8 + 12 / 4) * count, rel=1e-3)
    assert states["zero_3"]["total"] == pytest.approx(20 / 4 * count, rel=2e-2)  # small parameters stay whole
    piped = plan(tmp_path, "experiment=gpt2_124m", "ranks=4", "parallel.pp=2", "parallel.zero=1")
    assert [list(place["state_bytes"]) for place in piped["places"]] == [["zero_1"]] * 2
    assert list(plan(tmp_path, "experiment=quickstart", "ranks=2", "model.num_experts=4", "parallel.ep=2")["places"][0]["state_bytes"]) == [
        "zero_0", "zero_1", "zero_2"]


def test_all_problems_come_at_once_with_the_nearest_layout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "experiment=gpt2_124m", "ranks=6", "parallel.tp=5", "parallel.zero=3", "train.precision=fp16",
                    "schedule.warmup_steps=10000000"]) == 2
    said = capsys.readouterr().err
    assert "parallel.tp=5" in said and "schedule.warmup_steps=10000000" in said and "nearest valid layout of 6 ranks" in said
    assert said.splitlines()[-1].startswith("ERROR 2")


def test_ranks_come_from_the_cluster_unless_given(tmp_path: Path) -> None:
    assert plan(tmp_path, "experiment=debug", "cluster.ranks_per_node=2")["ranks"] == 2
    given = plan(tmp_path, "experiment=debug", "ranks=8", "batch.micro_size=1", "cluster.ranks_per_node=4")
    assert (given["ranks"], given["nodes"], given["rank"][4]["node"]) == (8, 2, 1)


@pytest.mark.parametrize("example", EXAMPLES["plan"])
def test_the_examples_of_the_help_work(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(example.split()[1:]) == 0


def test_thousands_of_ranks_without_torch(tmp_path: Path) -> None:
    """Sixteen thousand ranks, in a fresh interpreter."""
    words = ["experiment=llama_70b", "parallel.tp=8", "parallel.pp=16", "parallel.zero=1", "ranks=16384", "batch.global_size=2048",
             "batch.micro_size=1", "cluster.ranks_per_node=8", f"output={tmp_path}/plan.json"]
    program = ("import sys\nfrom hexareme.launcher import cli\n"
               f"code = cli.run(['plan', *{words!r}])\nassert 'torch' not in sys.modules\nsys.exit(code)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16384 ranks on 2048 nodes") and done.stdout.count("\n") < 120
    assert len(json.loads((tmp_path / "plan.json").read_text())["rank"]) == 16384
