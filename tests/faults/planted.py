"""Faults at named places of a run: planted in the front end, by `prepare=`, they are inherited by the ranks."""

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import hexareme.core.run as composition
import hexareme.core.trainer as training
from deepspeed import DeepSpeedEngine
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.engine import distributed
from hexareme.core.loss import LossModel

Action = Callable[[], None]
Prepare = Callable[[], None]

# Where in a run: the function, and which of its calls. Two micro-batches a step, a save each ten steps, an evaluation at step 15.
PLACES: dict[str, tuple[object, str, int]] = {
    "init": (distributed, "start_distributed", 1),
    "data": (composition, "open_data", 1),
    "forward": (LossModel, "forward", 27),
    "backward": (DeepSpeedEngine, "backward", 27),
    "step": (DeepSpeedEngine, "step", 28),
    "evaluation": (training, "evaluate", 1),
    "save": (Checkpointer, "save", 2),
    "exit": (distributed, "stop_distributed", 1),
}


def plant(place: str, action: Action, *, rank: int | None = None, call: int | None = None) -> Prepare:
    """An action before a call of a function.

    Args:
        place: of PLACES.
        action: what happens there, in the rank's process.
        rank: on which one; None: on all.
        call: before which call, from 1; None: that of PLACES.
    """
    owner, name, usual = PLACES[place]

    def prepare() -> None:
        original, calls = getattr(owner, name), 0

        @functools.wraps(original)
        def wrapped(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == (call or usual) and rank in (None, int(os.environ["RANK"])):
                action()
            return original(*arguments, **named)

        setattr(owner, name, wrapped)

    return prepare


def all_of(*prepares: Prepare) -> Prepare:
    """One after the other."""
    def prepare() -> None:
        for each in prepares:
            each()

    return prepare


def replaced(owner: object, name: str, value: object) -> Prepare:
    """A mutant: something of ours is taken away."""
    return lambda: setattr(owner, name, value)


def signals(*numbers: int) -> Action:
    """The rank gets signals."""
    def action() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return action


def dies(moment: Path) -> Action:
    """The rank is killed; when, by the system's monotonic clock, is in a file."""
    def action() -> None:
        moment.write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)

    return action


def sleeps(seconds: float) -> Action:
    """The rank's main thread is busy, in pieces, so that signals are handled."""
    def action() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)

    return action
