"""What is done about numbers that are not healthy: steps passed over, a loss that leaves its course. Pure: the same on every rank, because
what it is told is.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from ..conf.health_schema import HealthConfig, NonFinite, Spike
from .errors import NonFiniteError

LOWER_THE_RATE = ("look at these documents (`hexareme inspect directory=<run> step=<step>` names their raw files), or go on from the last "
                  "checkpoint with a lower optimizer.learning_rate")
FEWEST = 16  # healthy steps before a loss is judged
NEAR = 32  # steps whose median is where the course is now
DEVIATION = 1.4826  # standard deviation of a normal distribution, in units of its median absolute deviation
SMALL_SAMPLE = 16.0  # a spread known from n losses may be too small; by this share / n
LEAST_SPREAD = 1e-3  # of the loss: below that nothing is a spike, or a course without noise would call rounding one


@dataclass(frozen=True)
class LossSpike:
    """A loss far above its course.

    Args:
        loss: of the step, in nats.
        expected: the course's, in nats.
        spread: standard deviation of the recent steps, in nats.
    """

    loss: float
    expected: float
    spread: float

    @property
    def sigma(self) -> float:
        """How far above, in standard deviations."""
        return (self.loss - self.expected) / self.spread

    def __str__(self) -> str:
        return f"the loss is {self.loss:.4f}, {self.sigma:.1f} sigma above the {self.expected:.4f} expected (sigma {self.spread:.4f})"


class SpikeDetector:
    """Compares each loss with the recent ones: the distance from the median of the newest in units of a robust standard deviation.

    The spread is the larger of two: of the losses around a line through the window, so that a falling course does not hide what leaves
    it, and of their differences from step to step. A falling course is expected a little too high, which raises no alarm. A spike takes no
    part in what later steps are compared with; a course that stays high would then alarm for ever, so after `FEWEST` spikes in a row it
    is the new course.

    Args:
        window: steps that are remembered.
        sigma: how far above the course is a spike.
    """

    def __init__(self, *, window: int, sigma: float) -> None:
        self._sigma = sigma
        self._losses: deque[float] = deque(maxlen=window)
        self._high: list[float] = []

    def judge(self, loss: float) -> LossSpike | None:
        """Takes the next step's loss, which is finite; returns it if it is a spike."""
        spike = self._compare(loss)
        if spike is None:
            self._losses.append(loss)
            self._high.clear()
            return None
        self._high.append(loss)
        if len(self._high) == FEWEST:
            self._losses.clear()
            self._losses.extend(self._high)
            self._high.clear()
        return spike

    def _compare(self, loss: float) -> LossSpike | None:
        losses = list(self._losses)
        if len(losses) < FEWEST:
            return None
        expected = median(losses[-NEAR:])
        around = DEVIATION * median(map(abs, _around_line(losses)))
        between = DEVIATION / math.sqrt(2) * median(abs(b - a) for a, b in zip(losses, losses[1:], strict=False))
        spread = max(around, between, LEAST_SPREAD * abs(expected)) * (1 + SMALL_SAMPLE / len(losses))
        spike = LossSpike(loss, expected, spread)
        return spike if spike.sigma >= self._sigma else None

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint must keep."""
        return {"losses": list(self._losses), "high": list(self._high)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; a window that has become smaller keeps the newest."""
        self._losses.clear()
        self._losses.extend(float(each) for each in state["losses"])
        self._high = [float(each) for each in state["high"]]


def _around_line(losses: Sequence[float]) -> list[float]:
    """Distances from the line through the medians of the older and of the newer half."""
    half = len(losses) // 2
    slope = (median(losses[half:]) - median(losses[:half])) / half
    level = [loss - slope * place for place, loss in enumerate(losses)]
    middle = median(level)
    return [each - middle for each in level]


class Health:
    """The policy of a run, and what it must remember from step to step.

    Args:
        config: section `health`.
    """

    def __init__(self, config: HealthConfig) -> None:
        self._config = config
        self._detector = None if config.spike is Spike.off else SpikeDetector(window=config.spike_window, sigma=config.spike_sigma)
        self.skips_in_row = 0
        self.skips = 0  # of the whole run
        self.overflows = 0  # of fp16's loss scale, of the whole run
        self.rewinds = 0  # of this start

    @classmethod
    def resumed(cls, config: HealthConfig, extra: Mapping[str, Any]) -> Self:
        """As a checkpoint left it.

        Args:
            config: section `health`.
            extra: what the checkpoint says beside its tensors; empty where there is none.
        """
        health = cls(config)
        health.restore(extra.get("health", {}))
        return health

    @property
    def settled(self) -> bool:
        """Whether the last step was healthy: a checkpoint in a row of skips would only push an older one out."""
        return self.skips_in_row == 0

    def skip(self, what: str) -> None:
        """A step was passed over.

        Args:
            what: the step, what was not finite, where, and in which documents.

        Raises:
            NonFiniteError: one too many, or none is allowed.
        """
        self.skips_in_row += 1
        self.skips += 1
        if self._config.non_finite is NonFinite.stop:
            raise NonFiniteError(what, do=LOWER_THE_RATE)
        if self.skips_in_row > self._config.most_skips:
            raise NonFiniteError(f"{self._config.most_skips} steps in a row were passed over, and then {what}", do=LOWER_THE_RATE)

    def overflow(self) -> None:
        """An fp16 step overflowed: part of the method, and neither healthy nor unhealthy."""
        self.overflows += 1

    def healthy(self, loss: float) -> LossSpike | None:
        """A step updated the model; returns its loss if it is a spike."""
        self.skips_in_row = 0
        return self._detector.judge(loss) if self._detector is not None else None

    @property
    def rewinding(self) -> bool:
        """Whether a spike makes the run go back."""
        return self._config.spike is Spike.rewind

    def rewind(self, what: str) -> None:
        """The run goes back to before a spike.

        Args:
            what: the spike.

        Raises:
            NonFiniteError: one too many.
        """
        if self.rewinds >= self._config.most_rewinds:
            raise NonFiniteError(f"after {self.rewinds} rewinds, {what}", do=LOWER_THE_RATE)
        self.rewinds += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep so that a resumed run decides as this one."""
        counts: dict[str, Any] = {"skips_in_row": self.skips_in_row, "skips": self.skips, "overflows": self.overflows}
        return counts if self._detector is None else counts | {"spike": self._detector.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; a checkpoint from before there was one has an empty one."""
        self.skips_in_row, self.skips = int(state.get("skips_in_row", 0)), int(state.get("skips", 0))
        self.overflows = int(state.get("overflows", 0))
        if self._detector is not None and "spike" in state:
            self._detector.restore(state["spike"])
