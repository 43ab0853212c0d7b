"""Rows D1, D2 and D4: numbers that are not finite, and losses that leave their course, in real runs."""

import json
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from hexareme.core.checkpoint.folder import step_folders
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.launcher.watch import watcher

from .rig import SLACK, Run, hashes

SHORT = ("train.steps=12", "checkpoint.interval=4", "schedule=constant")


def planted(wrong: Callable[[torch.Tensor], torch.Tensor], *, ranks=(1,), steps=(), samples=()) -> Callable[[], None]:
    """Changes the loss of some ranks in some steps, counted from 1, or of some samples; the ranks of a run inherit it."""
    def prepare() -> None:
        from hexareme.core import loss

        whole = loss.LossModel.forward

        def forward(model, batch, targets_BS, loss_mask_BS):
            loss_sum = whole(model, batch, targets_BS, loss_mask_BS)
            here = dist.get_rank() in ranks and int(batch.step) + 1 in steps or bool(set(batch.samples_B.tolist()) & set(samples))
            return wrong(loss_sum) if here and model.training else loss_sum

        loss.LossModel.forward = forward

    return prepare


def nan(loss_sum):
    return loss_sum * float("nan")


def rows_of(run: Run) -> dict[int, dict]:
    rows = [row for row in run.metrics() if "loss" in row]
    found = {row["step"]: row for row in rows}
    assert len(found) == len(rows), "a step stands twice"
    return found


def warnings_of(start) -> list[str]:
    return [line for line in start.text().splitlines() if line.startswith("WARNING: ")]


def extra_of(folder):
    return Checkpoint.open(folder).extra


def newest(run: Run) -> int:
    return int(step_folders(run.directory / "checkpoints")[0].name.removeprefix("step-"))


def test_d1_a_bad_step_is_passed_over_and_explained(new_run):
    run = new_run("run")
    start = run.start(*SHORT, prepare=planted(nan, steps=[6]))
    assert start.finish() == 0
    rows = rows_of(run)
    assert sorted(rows) == list(range(1, 13))
    assert rows[6]["skipped"] is True and rows[6]["loss"] is None and set(rows[6]["non_finite"]) == {"loss", "grad_norm"}
    assert [step for step, row in rows.items() if "skipped" in row] == [6]
    (line,) = warnings_of(start)
    samples = [json.loads(row) for row in (run.directory / "samples.jsonl").read_text().splitlines()]
    guilty = [row for row in samples if row["step"] == 6 and row["rank"] == 1]
    assert "step 6 passed over (1 in a row): the loss of step 6 is nan: first in the loss on rank 1" in line and len(line) < 2048
    for row in guilty:
        assert f"sample {row['sample']} of " in line and f"random.bin (document {row['documents'][0]} at byte " in line
    innocent = {row["sample"] for row in samples if row["step"] == 6 and row["rank"] == 0}
    assert not any(f"sample {sample} " in line for sample in innocent)


def nan_in_stage_0() -> None:
    """Plants NaN into the hidden states that leave the first stage in step 6."""
    from hexareme.core.model.transformer import Transformer

    whole = Transformer.forward

    def forward(stage, batch, *arguments):
        out = whole(stage, batch, *arguments)
        return nan(out) if int(batch.step) + 1 == 6 and stage.stage.index == 0 else out

    Transformer.forward = forward


@pytest.mark.nightly
@pytest.mark.parametrize(("layout", "prepare", "first"), [
    ("parallel.tp=2", planted(nan, steps=[6]), "first in the loss on rank 1"),
    ("parallel.pp=2 parallel.schedule=1f1b", nan_in_stage_0, "first in the hidden states of stage 0 on rank 0"),
    ("parallel.pp=2 parallel.schedule=zbv model.num_layers=4", nan_in_stage_0, "first in the hidden states of stage 0 on rank 0"),
])
def test_d1_under_other_layouts(new_run, layout, prepare, first):
    run = new_run("run")
    start = run.start(*SHORT, *layout.split(), prepare=prepare)
    assert start.finish() == 0
    assert [step for step, row in rows_of(run).items() if "skipped" in row] == [6]
    (line,) = [line for line in warnings_of(start) if "passed over" in line]
    assert f"the loss of step 6 is nan: {first}" in line and "sample 20 of " in line


def test_d2_for_ever_the_run_stops_and_its_healthy_checkpoints_stay(new_run):
    run = new_run("run", "checkpoint.interval=1")
    start = run.start("train.steps=20", prepare=planted(nan, steps=range(5, 21)))
    assert start.finish(SLACK * 20) == 6
    (line,) = start.error_lines()
    assert "5 steps in a row were passed over, and then the loss of step 10 is nan: first in the loss on rank 1" in line
    assert run.exit_json()["code"] == 6 and "lower optimizer.learning_rate" in run.exit_json()["do"]
    assert newest(run) == 4 and len(step_folders(run.directory / "checkpoints")) >= 2
    for folder in step_folders(run.directory / "checkpoints"):
        hashes(folder)  # whole
    assert run.last_step() == 9


def test_a_streak_survives_a_stop_inside_it_and_a_save_waits_for_its_end(new_run):
    bad = planted(nan, steps=[3, 4, 5, 6])
    whole = new_run("whole")
    assert whole.start(*SHORT, prepare=bad).finish() == 0
    assert newest(whole) == 12
    run = new_run("run")
    assert run.start(*SHORT, "train.stop_at=5", prepare=bad).finish() == 0
    assert extra_of(step_folders(run.directory / "checkpoints")[0])["health"]["skips_in_row"] == 3
    assert [folder.name for folder in step_folders(run.directory / "checkpoints")] == ["step-00000005"]  # 4 was not due any more
    assert run.start(*SHORT, prepare=bad).finish() == 0
    assert run.course() == whole.course()


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", [False, True])
def test_the_row_of_skips_counts_over_a_stop(new_run, mutant):
    """Red without the counter in the checkpoint."""
    run, prepare = new_run("run", "health.most_skips=3"), without_memory if mutant else planted(nan, steps=[3, 4, 5, 6])
    assert run.start(*SHORT, "train.stop_at=5", prepare=prepare).finish() == 0
    assert run.start(*SHORT, prepare=prepare).finish() == (0 if mutant else 6)  # the fourth in a row


def test_the_policy_stop_ends_at_the_first(new_run):
    run = new_run("run", "health.non_finite=stop")
    start = run.start(*SHORT, prepare=planted(nan, steps=[6]))
    assert start.finish() == 6
    assert "the loss of step 6 is nan" in start.error_lines()[0] and newest(run) == 4


SPIKED = ("train.steps=40", "checkpoint.interval=10", "schedule=constant", "model.dropout=0")


def raised(loss_sum):
    """Higher by a nat and more for each of the 64 tokens, and with 20 times the gradient."""
    return loss_sum + 20 * (loss_sum - loss_sum.detach()) + 100


@pytest.mark.nightly
def test_d4_a_spike_is_found_in_its_step_and_named(new_run):
    run = new_run("run")
    start = run.start(*SPIKED, prepare=planted(raised, steps=[25]))
    assert start.finish() == 0
    (line,) = warnings_of(start)
    assert line.startswith("WARNING: step 25: the loss is ") and "sigma above" in line
    assert "largest on rank 1, made of sample " in line and len(line) < 2048


@pytest.mark.nightly
@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_d4_rewind_goes_back_and_passes_the_samples_over(new_run, asynchronous):
    clean = new_run("clean")
    assert clean.start(*SPIKED).finish() == 0
    run = new_run("run", "health.spike=rewind", f"checkpoint.asynchronous={asynchronous}")
    bad = {24 * 4 + 1}  # a sample of step 25
    start = run.start(*SPIKED, prepare=planted(raised, samples=bad))
    assert start.finish() == 0
    rows, samples = rows_of(run), run.samples()
    assert sorted(rows) == list(range(1, 41))
    assert [line for line in warnings_of(start) if "rewound from step 25 to step 20 (rewind 1); samples 80 to 99 are passed over, "
            "step 21 begins with sample 100" in line]
    for step in range(1, 41):
        first = 4 * (step - 1) + (20 if step > 20 else 0)
        assert samples[step] == list(range(first, first + 4)) and rows[step]["samples_seen"] == first + 4
    both = rows_of(clean)
    assert all(rows[step]["loss"] == both[step]["loss"] for step in range(1, 21)) and rows[21]["loss"] != both[21]["loss"]
    resumed = new_run("resumed", "health.spike=rewind")
    assert resumed.start(*SPIKED, "train.stop_at=30", prepare=planted(raised, samples=bad)).finish() == 0
    assert resumed.start(*SPIKED, prepare=planted(raised, samples=bad)).finish() == 0
    assert resumed.course() == run.course()


@pytest.mark.nightly
def test_d4_too_many_rewinds_end_the_run(new_run):
    run = new_run("run", "health.spike=rewind", "health.most_rewinds=1")
    start = run.start(*SPIKED, prepare=planted(raised, ranks=(0, 1), steps=[25]))
    assert start.finish() == 6
    assert "after 1 rewinds, step 25: the loss is " in start.error_lines()[0]


def without_agreement():
    """Only the guilty rank passes its step over."""
    from hexareme.core.engine import engine

    planted(nan, steps=[6])()
    whole = engine.Engine._agree

    def alone(self, parts, votes):
        (_, bad), memory, sums = whole(self, [torch.nan_to_num(parts[0]), parts[1]], votes)
        return (float(parts[0]), bad if bool(parts[0].isnan()) else 0.0), memory, sums

    engine.Engine._agree = alone


def without_norm_check():
    """Nothing is found, neither in the loss nor in the gradients."""
    from hexareme.core.engine import engine

    planted(nan, steps=[6])()
    engine.Engine._finish = lambda self, *, loss_is_finite, bad_gradients: self._update()
    engine.math = type("Blind", (), {"isfinite": staticmethod(lambda number: True), "nan": 0.0, "inf": 0.0})


def without_memory():
    """The row of skips is not in the checkpoint."""
    from hexareme.core import health

    planted(nan, steps=[3, 4, 5, 6])()
    health.Health.state = lambda self: {}


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", [without_agreement, without_norm_check])
def test_a_mutant_turns_d1_red(new_run, mutant):
    run = new_run("run")
    code = run.start(*SHORT, "run.hang_timeout=8", prepare=mutant).wait(SLACK * 25)
    healthy = code == 0 and rows_of(run)[6].get("skipped") is True and [s for s, row in rows_of(run).items() if row["loss"] is None] == [6]
    assert not healthy
    print(f"{mutant.__name__}: exit {code}, {run.exit_json()}")


def overflowing(loss_sum):
    """A finite loss whose gradient overflows."""
    loss_sum.register_hook(lambda gradient: gradient * float("inf"))
    return loss_sum


def storm(*steps: int) -> Callable[[], None]:
    """Overflows on rank 1; on processors without avx512_fp16, too, where torch computes fp16 slowly and the watcher would refuse."""
    def prepare() -> None:
        watcher.computes_fp16 = lambda: True
        planted(overflowing, steps=steps)()

    return prepare


FP16 = ("train.precision=fp16", "schedule=constant", "train.steps=24", "checkpoint.interval=4")


def test_d3_an_overflow_storm_ends_at_the_lowest_scale_with_advice(new_run):
    run = new_run("run")
    start = run.start(*FP16, prepare=storm(*range(3, 30)))
    assert start.finish() == 6
    (line,) = start.error_lines()
    assert "fp16 gradients overflow even at the lowest loss scale, 1" in line and "train.precision=bf16" in line
    rows = rows_of(run)
    assert [step for step, row in rows.items() if row.get("overflow")] == list(range(3, 20))  # one forgiven, 2^16 halved to 1
    assert not any("skipped" in row for row in rows.values()) and rows[19]["non_finite"] == ["grad_norm"]


@pytest.mark.nightly
def test_d3_scale_and_counters_are_restored(new_run):
    prepare = storm(*range(3, 9))
    whole, run = new_run("whole"), new_run("run")
    assert whole.start(*FP16, prepare=prepare).finish() == 0
    assert run.start(*FP16, "train.stop_at=6", prepare=prepare).finish() == 0
    middle = extra_of(step_folders(run.directory / "checkpoints")[0])
    assert middle["cur_scale"] == 2.0 ** (16 - 3) and middle["updates"] == 2 and middle["health"]["overflows"] == 4
    assert run.start(*FP16, prepare=prepare).finish() == 0
    assert run.course() == whole.course()
    ends = [extra_of(step_folders(each.directory / "checkpoints")[0]) for each in (run, whole)]
    counted = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis", "updates", "health")
    assert [ends[0][key] for key in counted] == [ends[1][key] for key in counted]
