"""One run in every layout that a user may choose: equal losses, and a run that changes its layout on the way goes on as if nothing had."""

import pytest

# deepspeed's own launcher starts the run in tests/end_to_end/test_train.py; here it is ours, up to eight ranks on one machine
COMMON = ["experiment=debug", "train.steps=6", "schedule.warmup_steps=2", "checkpoint.interval=0", "model.dropout=0.1",
          "evaluation.interval=3", "model.num_layers=4", "batch.micro_size=2", "model.num_experts=4", "model.router_balance=bias"]
LAYOUTS = {
    "tensor and sequence": ("parallel.tp=2 parallel.zero=3", 2),
    "pipeline": ("parallel.pp=2 parallel.schedule=zbv", 2),
    "context": ("parallel.cp=2 parallel.zero=2", 2),
    "experts": ("parallel.ep=2 parallel.zero=2", 2),
    "tensor, pipeline, experts": ("parallel.tp=2 parallel.pp=2 parallel.ep=2", 8),
}


def command(corpus, name, layout, ranks, *more):
    return ["train", *COMMON, f"data.train={corpus}", f"run.name={name}", *layout.split(), f"cluster.ranks_per_node={ranks}", *more]


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    from .user import User

    user = User(tmp_path_factory.mktemp("layouts"))
    code, out, err = user.hexareme(*command(corpus, "one", "parallel.zero=0", 1))
    assert code == 0, out + err
    return user.steps("one"), validation(user, "one"), user.metrics("one")[0]


def validation(user, run):
    return {row["step"]: row["validation_loss"] for row in user.metrics(run) if "validation_loss" in row}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_trains_and_validates_as_one_process_does(name, corpus, reference, user):
    layout, ranks = LAYOUTS[name]
    code, out, err = user.hexareme(*command(corpus, "run", layout, ranks), timeout=240)
    assert code == 0, out + err
    steps, validated, first = reference
    found = user.steps("run")
    assert found.keys() == steps.keys()
    for step, values in found.items():
        assert values == pytest.approx(steps[step], rel=1e-5), f"step {step}"
    assert validation(user, "run") == pytest.approx(validated, rel=1e-5)
    line = user.metrics("run")[0]
    assert line["expert_load_max"] == pytest.approx(first["expert_load_max"]) and line["expert_load_max"] > 1
    assert line["balance_loss"] == pytest.approx(first["balance_loss"], rel=1e-5)
    assert ("stage_memory_bytes" in line) == ("pp" in layout)


def test_a_run_changes_its_layout_twice_and_goes_on_exactly(corpus, reference, user):
    journey = [("parallel.pp=2 parallel.schedule=interleaved_zero_bubble parallel.virtual_stages=2", 2), ("parallel.cp=2 parallel.ep=2", 4),
               ("parallel.tp=2 parallel.zero=3", 2)]
    for stop, (layout, ranks) in zip((2, 4, 0), journey, strict=True):
        code, out, err = user.hexareme(*command(corpus, "moved", layout, ranks, f"train.stop_at={stop}"), timeout=240)
        assert code == 0, out + err
    steps, _, _ = reference
    found = user.steps("moved")
    assert found.keys() == steps.keys()
    for step, values in found.items():
        assert values == pytest.approx(steps[step], rel=1e-5), f"step {step}"


def test_what_cannot_be_laid_out_is_refused_before_a_rank_starts(corpus, user):
    code, _, err = user.hexareme(*command(corpus, "refused", "parallel.pp=2 parallel.zero=3", 4))
    assert code == 2
    assert "parallel.zero=3" in err and "nearest valid layout of 4 ranks: parallel.pp=2 parallel.zero=1 (dp=2)" in err
    assert not (user.folder / "runs").exists() or not list((user.folder / "runs").glob("*/logs/*"))
