"""What the process around a run asks of it and offers it. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field

from .pulse import Pulse


def _never() -> bool:
    return False


def _no_seconds() -> float:
    return 0.0


def _unfenced() -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Oversight:
    """The watcher's side of a run; the defaults are those of a run that nobody watches.

    Args:
        stop_requested: whether this process was asked to stop; the ranks agree on it at the next step's edge.
        pulse: where this rank leaves its signs of life.
        fence: raises FolderInUseError where the run folder belongs to a newer attempt.
        fence_lately: the same, unless it was called in the last seconds: for what is written at every step.
        waited_seconds: how long this rank's main thread has waited for others so far.
    """

    stop_requested: Callable[[], bool] = _never
    pulse: Pulse = field(default_factory=Pulse)
    fence: Callable[[], None] = _unfenced
    fence_lately: Callable[[], None] = _unfenced
    waited_seconds: Callable[[], float] = _no_seconds
