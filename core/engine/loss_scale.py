"""fp16's dynamic loss scale, which is DeepSpeed's, with a named error at its end instead of a bare exception."""

from typing import Any, Self

import deepspeed

from ..errors import NonFiniteError

CHANGE = "train in bf16 (train.precision=bf16), or go on from the last checkpoint with a lower optimizer.learning_rate"


class LossScale:
    """The scale halves with each overflow (the first is forgiven) and doubles after 1,000 steps without one.

    Args:
        scaler: DeepSpeed's DynamicLossScaler.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        self._at_floor = False
        scaler.raise_error_at_min_scale = False  # a bare Exception, from the middle of a step

    @classmethod
    def of(cls, engine: deepspeed.DeepSpeedEngine) -> Self | None:
        """The loss scale of an engine; None where it has none that moves."""
        scaler = getattr(engine.optimizer, "loss_scaler", None)
        return cls(scaler) if scaler is not None and scaler.dynamic else None

    def before_update(self) -> None:
        """Notes whether the scale can fall."""
        forgiven = self._scaler.delayed_shift > 1 and self._scaler.cur_hysteresis > 1
        self._at_floor = self._scaler.cur_scale <= self._scaler.min_scale and not forgiven

    def after_update(self, *, overflow: bool) -> None:
        """Refuses an overflow that a lower scale cannot help.

        Raises:
            NonFiniteError: alike on all ranks; nothing was updated.
        """
        if overflow and self._at_floor:
            raise NonFiniteError(f"fp16 gradients overflow even at the lowest loss scale, {self._scaler.cur_scale:g}", do=CHANGE)
