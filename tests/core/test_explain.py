"""Where a step began, from what a run records: rewinds, steps that are not recorded, runs that did not record their starts."""

import json

import pytest
from hexareme.core.batch import BatchPlan, RampUp
from hexareme.core.explain import find_step

PLAN = BatchPlan.divide(global_size=8, micro_size=2, dp=2, ramp_up=RampUp(4, 4, 8))  # 4, 4, 8, 8, ...


def place(folder, seen, step, *, plan=PLAN, began=(0, 0), assumed=()):
    """`seen`: step -> samples_seen, as metrics.jsonl has them; validation lines lie between."""
    rows = [{"step": number, "loss": 1.0, "samples_seen": samples} for number, samples in seen.items()]
    rows += [{"step": number, "validation_loss": 1.0} for number in seen]
    rows.sort(key=lambda row: row["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1')
    found = find_step(folder, step, plan, began=began, assumed=assumed)
    return found.first, found.size, found.passed_over, bool(found.assumed)


@pytest.mark.parametrize(("step", "first", "size"), [(1, 0, 4), (2, 4, 4), (3, 8, 8), (4, 16, 8)])
def test_a_step_that_is_recorded(tmp_path, step, first, size):
    assert place(tmp_path, {1: 4, 2: 8, 3: 16, 4: 24}, step) == (first, size, 0, False)


def test_what_a_rewind_passed_over_is_told(tmp_path):
    """Steps 3 and 4 took samples 8 to 23; the run went back to step 2, and step 3 began anew with sample 24."""
    seen = {1: 4, 2: 8, 3: 32, 4: 40}
    assert place(tmp_path, seen, 3) == (24, 8, 16, False)
    assert place(tmp_path, seen, 4) == (32, 8, 0, False)


def test_a_rewind_just_after_a_start(tmp_path):
    assert place(tmp_path, {3: 40}, 3, began=(2, 24)) == (32, 8, 8, False)


def test_what_is_not_recorded_is_assumed_to_follow(tmp_path):
    assert place(tmp_path, {1: 4, 2: 8}, 5) == (24, 8, 0, True)
    assert place(tmp_path, {}, 3) == (8, 8, 0, True)
    assert place(tmp_path, {2: 108}, 4, began=(2, 108)) == (116, 8, 0, True)
    (tmp_path / "metrics.jsonl").unlink()
    assert find_step(tmp_path, 3, PLAN, began=(1, 50), assumed=()).first == 54


def test_without_a_record_of_starts_the_samples_seen_decide(tmp_path):
    """The batch of config.yaml is of a later start than step 2, which took 6 samples."""
    later = BatchPlan.divide(global_size=8, micro_size=1, dp=1)
    assert place(tmp_path, {1: 6, 2: 12, 3: 20}, 2, plan=later, assumed=("x",)) == (6, 6, 0, True)
    assert place(tmp_path, {1: 6, 2: 12, 3: 20}, 3, plan=later, assumed=("x",)) == (12, 8, 0, True)
