"""Training as users start it: every way the same losses, killed and resumed bit for bit, quick to its first step."""

import json
import signal
import sys
import time

import pytest
from hexareme.launcher.environment import free_port

from .user import BIN, ROOT, error_lines

TRAIN = str(ROOT / "launcher" / "train.py")
STEPS = 16


def overrides(corpus, name, *more):
    return ["experiment=debug", f"data.train={corpus}", f"run.name={name}", f"train.steps={STEPS}", "checkpoint.interval=5",
            "model.dropout=0.1", "evaluation.interval=0", *more]


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    """An uninterrupted run on two ranks."""
    from .user import User

    user = User(tmp_path_factory.mktemp("reference"))
    code, out, err = user.hexareme("train", *overrides(corpus, "reference"), "cluster=local", "cluster.ranks_per_node=2")
    assert code == 0, out + err
    assert not user.leftovers()
    return user.steps("reference")


WAYS = {
    "deepspeed": ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), TRAIN],
    "torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2", TRAIN],
    "python": ["python", TRAIN],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_start_has_the_same_losses(way, corpus, reference, user):
    code, out, err = user.run(*WAYS[way], *overrides(corpus, way), TMPDIR=str(user.folder))  # torchrun leaves a folder there
    assert code == 0, out + err
    assert user.exit_json(way)["reason"] == "completed"
    found = user.steps(way)
    assert found.keys() == reference.keys()
    tolerance = 1e-5 if way == "python" else 0.0  # one process adds in another order; two ranks are two ranks
    for step, values in found.items():
        assert values == pytest.approx(reference[step], rel=tolerance, abs=0.0)


@pytest.mark.parametrize("kill_after", [7, *(pytest.param(steps, marks=pytest.mark.nightly) for steps in (3, 13))])
def test_killed_and_started_again_the_rest_is_bit_identical(kill_after, corpus, reference, user):
    command = ["hexareme", "train", *overrides(corpus, "killed"), "cluster.ranks_per_node=2"]
    process = user.start(*command)
    metrics = user.folder / "runs" / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < kill_after:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.002)
    user.kill_everything()
    process.communicate()
    assert not (user.folder / "runs" / "killed" / "exit.json").exists()
    code, out, err = user.run(*command)
    assert code == 0, out + err
    assert user.steps("killed") == reference
    assert [row["step"] for row in user.metrics("killed") if "loss" in row] == sorted(reference)


def test_a_signal_saves_and_asks_to_be_started_again(corpus, reference, user):
    command = ["hexareme", "train", *overrides(corpus, "stopped"), "cluster.ranks_per_node=2"]
    process = user.start(*command)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 75, err
    assert err.splitlines()[-1].startswith("ERROR 75 rank=")
    stopped_at = user.exit_json("stopped")["step"]
    assert (user.folder / f"runs/stopped/checkpoints/step-{stopped_at:08d}/manifest.json").exists()
    code, out, err = user.run(*command)
    assert code == 0, out + err
    assert user.steps("stopped") == reference


def test_a_finished_run_started_again_says_so_and_changes_nothing(corpus, user):
    command = ["hexareme", "train", *overrides(corpus, "again", "train.steps=3", "schedule.warmup_steps=1")]
    assert user.run(*command)[0] == 0
    before = user.metrics("again")
    code, out, _ = user.run(*command)
    assert code == 0
    assert "3" in out and "complete" in out
    assert user.metrics("again") == before


def test_restarting_without_a_checkpoint_is_refused(corpus, user):
    command = ["hexareme", "train", *overrides(corpus, "lost", "train.steps=3", "schedule.warmup_steps=1")]
    assert user.run(*command)[0] == 0
    (user.folder / "runs/lost/checkpoints").rename(user.folder / "moved away")
    code, _, err = user.run(*command)
    assert code == 4
    (line,) = error_lines(err)
    assert "checkpoint" in line and "step 3" in line


def test_the_first_step_comes_within_the_imports_and_three_seconds(corpus, user):
    """Three times the bound on a loaded machine; the imports are timed in the same run."""
    begin = time.monotonic()
    user.run("python", "-c", "import torch, deepspeed, torch._inductor.compile_fx")
    imports = time.monotonic() - begin
    begin = time.monotonic()
    process = user.start("python", TRAIN, *overrides(corpus, "quick"))
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))
    first_step = time.monotonic() - begin
    process.communicate()
    print(f"imports {imports:.1f} s, first step after {first_step:.1f} s", file=sys.stderr)
    assert first_step < 3 * (imports + 3)


def test_report_evaluate_and_generate_go_on_from_the_run(corpus, user):
    assert user.hexareme("train", *overrides(corpus, "mine", "tracking.tensorboard=true"))[0] == 0
    code, out, err = user.hexareme("report", "directory=runs/mine")
    assert code == 0, err
    assert (user.folder / "runs/mine/report/report.html").stat().st_size > 10_000
    code, out, err = user.hexareme("report", "directory=[runs/mine, runs/mine]", "output=both")
    assert code == 0, err
    assert (user.folder / "both/report.html").exists()
    code, out, err = user.hexareme("evaluate", "directory=runs/mine", "baseline=bigram", "output=result.json")
    assert code == 0, err
    result = json.loads((user.folder / "result.json").read_text())
    last = [row for row in user.metrics("mine") if "validation_loss" in row][-1]
    assert result["bigram_perplexity"] > 1
    assert "Kneser-Ney" in out
    whole = user.hexareme("evaluate", "directory=runs/mine", "micro_size=3", "output=other.json")
    assert whole[0] == 0
    assert json.loads((user.folder / "other.json").read_text())["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert last["validation_loss"] == pytest.approx(result["loss"], rel=0.2)  # the run looked at its first samples only
    texts = [user.hexareme("generate", "directory=runs/mine", "prompt=def ", "max_new_tokens=16", "seed=3")[1] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("def ")


def test_the_console_script_is_the_installed_one():
    assert (BIN / "hexareme").exists()
