"""Measured beside theory: the rows that every suite of the bench gives, and how they are shown. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        where: the axis, the kind of state, or the schedule.
        what: was measured there.
        measured: on the rank, or on all of them, that is farthest from its theory.
        theory: None: nothing is said of it, and nothing demanded.
        calls: collectives or messages; 0 where none are counted.
        bound: the theory is what must not be exceeded.
    """

    where: str
    what: str
    measured: float
    theory: float | None
    calls: int = 0
    bound: bool = False

    def difference(self, *, relative: bool) -> float:
        """From the theory, as a part of it or in the same unit; 0 without one, infinite where nothing was expected."""
        if self.theory is None or self.measured == self.theory or (self.bound and self.measured < self.theory):
            return 0.0
        away = abs(self.measured - self.theory)
        if not relative:
            return away
        return away / abs(self.theory) if self.theory else float("inf")


@dataclass(frozen=True)
class Limit:
    """What a suite demands.

    Args:
        tolerance: largest difference.
        relative: whether it is a part of the theory.
        digits: after the point, of the figures.
    """

    tolerance: float
    relative: bool
    digits: int

    def holds(self, row: Row) -> bool:
        """Whether a row is within it."""
        return row.difference(relative=self.relative) <= (0.0 if row.bound else self.tolerance)


def worst(ranks: Sequence[Sequence[Row]], limit: Limit) -> list[Row]:
    """Of each figure the rank that is farthest from its theory; ranks may have different rows.

    Args:
        ranks: rows of each rank.
        limit: how the distance is taken.
    """
    found: dict[tuple[str, str], Row] = {}
    for row in (row for rows in ranks for row in rows):
        key = row.where, row.what
        if key not in found or row.difference(relative=limit.relative) > found[key].difference(relative=limit.relative):
            found[key] = row
    return list(found.values())


HEADER = f"{'':<46}{'calls':>7}{'measured':>16}{'theory':>16}{'difference':>12}"


def line(row: Row, limit: Limit) -> str:
    """One row as text."""
    calls = str(row.calls) if row.calls else ""
    start = f"  {row.where + '  ' + row.what:<44}{calls:>7}{row.measured:>16,.{limit.digits}f}"
    if row.theory is None:
        return start
    away = row.difference(relative=limit.relative)
    shown = f"{100 * away:.3f} %" if limit.relative else f"{away:.4f}"
    return f"{start}{row.theory:>16,.{limit.digits}f}{shown:>12}{'' if limit.holds(row) else '  OUTSIDE'}"


def as_json(row: Row, limit: Limit) -> dict[str, Any]:
    """One row for machines."""
    return {"where": row.where, "what": row.what, "calls": row.calls, "measured": row.measured, "theory": row.theory,
            "difference": row.difference(relative=limit.relative), "holds": limit.holds(row)}
