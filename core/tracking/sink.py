"""What the follower feeds: the interface of a sink, and the one loop over them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, Protocol

from ..metrics import is_training
from .tail import Tail


@dataclass(kw_only=True)
class Logged:
    """The last steps a sink holds: of training lines, and of validation lines (0: none)."""

    training: int = 0
    validation: int = 0

    def is_new(self, row: Mapping[str, Any]) -> bool:
        """Whether a row comes after what is held; after a resume the file repeats steps that the sink has."""
        return row["step"] > (self.training if is_training(row) else self.validation)

    def note(self, row: Mapping[str, Any]) -> None:
        """The sink now holds this row."""
        if is_training(row):
            self.training = max(self.training, int(row["step"]))
        else:
            self.validation = max(self.validation, int(row["step"]))

    def note_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The sink holds these rows of an earlier session."""
        for row in rows:
            if "step" in row and ("loss" in row or "validation_loss" in row):
                self.note(row)


class Sink(Protocol):
    """One receiver of metrics."""

    def open(self, *, seconds_left: float | None) -> Logged | None:
        """Get ready; returns what is held already, or None if it is not ready yet (it is asked again).

        Args:
            seconds_left: None while training goes on; at the end, the time that is left, and the last chance to get ready.
        """

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take one row."""

    def close(self, *, exit_code: int) -> None:
        """Bring everything where it belongs; the lifeline ends the process if that takes too long."""


class Feed:
    """One sink and its own place in the metrics file: nothing is lost while the sink is not ready, for the file is the buffer."""

    def __init__(self, sink: Sink, tail: Tail) -> None:
        self._sink, self._tail = sink, tail
        self._logged: Logged | None = None

    def drain(self, *, seconds_left: float | None) -> None:
        """Hand over every new row, if the sink is ready (`seconds_left` as in `Sink.open`)."""
        if self._logged is None:
            self._logged = self._sink.open(seconds_left=seconds_left)
        if self._logged is None:
            return
        for row in self._tail.rows():
            if self._logged.is_new(row):
                self._sink.write(row["step"], values_of(row))
                self._logged.note(row)

    def close(self, *, exit_code: int) -> None:
        """End the sink; call after the last `drain`."""
        self._sink.close(exit_code=exit_code)


def values_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row but its step; what was not finite is NaN, what is unknown is left out."""
    values = {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
    return values | dict.fromkeys(row.get("non_finite", ()), nan)
