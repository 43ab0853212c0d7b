"""Our factors against torch's own schedulers, and their edges."""

import pytest
import torch
from hexareme.conf.schema import ScheduleConfig, ScheduleName
from hexareme.core.schedule import schedule_factor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

STEPS, WARMUP = 50, 7


def by_torch(scheduler_class, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_class(optimizer, **arguments)
    rates = []
    for _ in range(STEPS - WARMUP + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("name", "reference"), [
    (ScheduleName.cosine, lambda: by_torch(CosineAnnealingLR, T_max=STEPS - WARMUP, eta_min=0.1)),
    (ScheduleName.linear, lambda: by_torch(LinearLR, start_factor=1.0, end_factor=0.1, total_iters=STEPS - WARMUP)),
])
def test_decay_equals_torchs_scheduler(name, reference):
    factor = schedule_factor(ScheduleConfig(name=name, warmup_steps=WARMUP, floor=0.1), total_steps=STEPS)
    assert [factor(step) for step in range(WARMUP, STEPS + 1)] == pytest.approx(reference(), abs=1e-12)


@pytest.mark.parametrize("name", list(ScheduleName))
def test_warm_up_rises_to_the_peak_and_never_starts_at_zero(name):
    factor = schedule_factor(ScheduleConfig(name=name, warmup_steps=WARMUP, decay_steps=10), total_steps=STEPS)
    warm = [factor(step) for step in range(WARMUP + 1)]
    assert warm[0] > 0
    assert warm[WARMUP] == pytest.approx(1.0)
    assert warm == sorted(warm)


def test_wsd_is_flat_and_then_falls_over_its_decay_steps():
    factor = schedule_factor(ScheduleConfig(name=ScheduleName.wsd, warmup_steps=5, decay_steps=10), total_steps=STEPS)
    assert {factor(step) for step in range(5, 41)} == {1.0}
    assert [factor(step) for step in range(40, 51)] == pytest.approx([1 - k / 10 for k in range(11)])


def test_inverse_sqrt_is_the_formula_of_attention_is_all_you_need():
    factor = schedule_factor(ScheduleConfig(name=ScheduleName.inverse_sqrt, warmup_steps=4), total_steps=STEPS)
    assert factor(16) == pytest.approx((4 / 16) ** 0.5)


def test_lambda_lr_continues_where_a_resume_left_it():
    factor = schedule_factor(ScheduleConfig(name=ScheduleName.cosine, warmup_steps=WARMUP), total_steps=STEPS)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    optimizer.param_groups[0]["initial_lr"] = 3.0
    torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=19)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3.0 * factor(20))
