"""Learning-rate schedules: pure factors of the peak for each step, driven by torch's LambdaLR."""

import math
from collections.abc import Callable

from ..conf.schema import ScheduleConfig, ScheduleName


def schedule_factor(schedule: ScheduleConfig, *, total_steps: int) -> Callable[[int], float]:
    """The learning rate of each step as a part of its peak.

    Step 0 is the first update. During warm-up the factor rises linearly and reaches 1 at step `warmup_steps`; at `total_steps`
    the decaying schedules reach `floor`.

    Args:
        schedule: the section of the config.
        total_steps: steps of the whole run (`train.steps`), not where it is asked to stop.

    Sources: cosine: Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts; wsd (warm-up, stable, decay): Hu et al. 2024
    (MiniCPM), section 4, with linear decay; inverse_sqrt: Vaswani et al. 2017, section 5.3.
    """
    warmup, floor = schedule.warmup_steps, schedule.floor
    decay = schedule.decay_steps
    span = max(1, total_steps - warmup)

    def constant(step: int) -> float:
        return 1.0

    def cosine(step: int) -> float:
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / span)))

    def linear(step: int) -> float:
        return floor + (1 - floor) * max(0.0, 1 - (step - warmup) / span)

    def wsd(step: int) -> float:
        return floor + (1 - floor) * min(1.0, max(0, total_steps - step) / max(1, decay))

    def inverse_sqrt(step: int) -> float:
        return max(floor, math.sqrt(max(1, warmup) / max(1, step, warmup)))

    course = {
        ScheduleName.constant: constant, ScheduleName.cosine: cosine, ScheduleName.linear: linear, ScheduleName.wsd: wsd,
        ScheduleName.inverse_sqrt: inverse_sqrt,
    }[schedule.name]
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else course(step)
