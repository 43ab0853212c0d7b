"""Passing over a step whose numbers are not finite: what its backward passes have left goes, and nothing that lasts has changed.

DeepSpeed knows such a step as fp16's overflow: gradients and their buffers are cleared, the micro-steps counted, no update. We send every
unhealthy step of every precision and ZeRO stage that way, without the loss scale, which is not to blame.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import deepspeed


def pass_over(engine: deepspeed.DeepSpeedEngine) -> None:
    """Ends a step, after its backward passes, as one that overflowed: parameters, moments and loss scale stay bit for bit as they are.

    Args:
        engine: at the boundary of a step. Collective at ZeRO stage 3 under fp16.
    """
    with _instead(engine.optimizer, _as_overflow(engine)):
        engine.step()


def _as_overflow(engine: deepspeed.DeepSpeedEngine) -> dict[str, Any]:
    """The attributes that make the optimizer of this ZeRO stage skip its next update."""
    optimizer, stage = engine.optimizer, int(engine.zero_optimization_stage())

    def no_update(*_: object) -> None:
        return

    def overflows(partition_gradients: bool = True) -> None:
        optimizer.overflow = True

    if stage == 0:  # a plain optimizer: the engine asks it whether it overflowed, and clears the gradients itself
        return {"step": no_update, "overflow": True}
    if stage < 3:
        return {"check_grad_overflow": True, "check_overflow": overflows, "_update_scale": no_update}
    return {"_overflow_check_and_loss_scale_update": _after(optimizer._overflow_check_and_loss_scale_update, overflows),
            "_update_scale": no_update}


def _after(first: Callable[..., object], then: Callable[[], None]) -> Callable[..., None]:
    """Stage 3's own check first, without the loss scale: it also empties what it has noted of the gradients."""
    def both(*, update_scale: bool) -> None:
        first(update_scale=update_scale)
        then()

    return both


@contextmanager
def _instead(owner: object, values: Mapping[str, Any]) -> Iterator[None]:
    """These attributes for a while; afterwards the object is as it was, but for what its own methods have set."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)
