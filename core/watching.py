"""A run as it stands, followed through its folder, and its curves drawn with characters. Pure: imports no torch and writes nothing."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .metrics import is_training
from .tracking.tail import Tail

BASE = 0x2800  # of Unicode's braille patterns
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # rows from above, columns from the left
SHOWN = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "step_seconds")
LATE = 5.0  # times the usual step, after which silence is worth a word
LEAST_LATE_SECONDS = 10.0
RECENT = 20  # steps whose mean says how long the rest takes


@dataclass
class Watched:
    """What a run has told so far.

    Args:
        directory: of the run.

    Attributes:
        steps: of the training rows.
        columns: by name, as long as `steps`; NaN where a row has no such number.
        validation: (step, loss).
        newest: the last training row.
    """

    directory: Path
    steps: list[int] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SHOWN})
    validation: list[tuple[int, float]] = field(default_factory=list)
    newest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = self.directory / "metrics.jsonl"
        self._tail = Tail(self._file)

    def look(self) -> bool:
        """Reads what is new; whether there was anything. What a resume does again replaces what it cut."""
        found = False
        for row in self._tail.rows():
            found = True
            if not is_training(row):
                loss = row.get("validation_loss")
                self.validation = [each for each in self.validation if each[0] < row["step"]]
                self.validation += [] if loss is None else [(row["step"], float(loss))]
                continue
            while self.steps and self.steps[-1] >= row["step"]:
                self.steps.pop()
                for column in self.columns.values():
                    column.pop()
            self.validation = [each for each in self.validation if each[0] < row["step"]]
            self.steps.append(row["step"])
            for name, column in self.columns.items():
                column.append(math.nan if row.get(name) is None else float(row[name]))
            self.newest = row
        return found

    def seconds_left(self, last: int) -> float:
        """Until a step, as the recent ones went; NaN before the first."""
        recent = [each for each in self.columns["step_seconds"][-RECENT:] if math.isfinite(each)]
        return (last - self.steps[-1]) * sum(recent) / len(recent) if recent else math.nan

    def silent_seconds(self, now: float | None = None) -> float:
        """Since the last line, where that is far longer than a step takes; else 0.

        Args:
            now: Unix time; None: this moment.
        """
        if not self.steps:
            return 0.0
        recent = [each for each in self.columns["step_seconds"][-RECENT:] if math.isfinite(each)]
        age = (time.time() if now is None else now) - self._file.stat().st_mtime
        return age if age > max(LEAST_LATE_SECONDS, LATE * max(recent, default=0.0)) else 0.0

    def ended(self) -> Mapping[str, Any]:
        """`exit.json`, where the run has ended after its last line; else empty."""
        path = self.directory / "exit.json"
        try:
            if self._file.exists() and path.stat().st_mtime < self._file.stat().st_mtime - 1.0:
                return {}
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def chart(xs: Sequence[float], ys: Sequence[float], *, width: int, height: int) -> list[str]:
    """A curve of braille dots, two by four in a character, with its range at the left and its ends below.

    Args:
        xs, ys: points, in the order of x; those that are not finite are left out.
        width, height: characters in all, at least 20 x 3.

    Returns:
        The lines, from above; one that says so where there is nothing to draw.
    """
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return ["nothing yet"]
    low, high = min(y for _, y in points), max(y for _, y in points)
    labels = [_short(high), _short(low)]
    margin = max(map(len, labels)) + 1
    columns, rows = (width - margin) * 2, (height - 1) * 4
    cells = [[0] * (width - margin) for _ in range(height - 1)]
    first, last = points[0][0], points[-1][0]
    sums: dict[int, tuple[float, int]] = {}  # many steps may share a column of dots: their mean is drawn
    for x, y in points:
        column = round((x - first) / (last - first) * (columns - 1)) if last > first else 0
        total, count = sums.get(column, (0.0, 0))
        sums[column] = total + y, count + 1
    for column, (total, count) in sums.items():
        part = (high - total / count) / (high - low) if high > low else 0.5
        row = round(part * (rows - 1))
        cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    lines = []
    for number, line in enumerate(cells):
        label = labels[0] if number == 0 else labels[1] if number == height - 2 else ""
        lines.append(label.rjust(margin - 1) + " " + "".join(chr(BASE + cell) for cell in line))
    ends = f"{first:g}", f"{last:g}"
    return [*lines, " " * margin + ends[0] + ends[1].rjust(width - margin - len(ends[0]))]


def _short(number: float) -> str:
    return f"{number:.4g}"
