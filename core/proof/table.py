"""A proof for people (a table) and for machines (proof.json). Pure."""

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ...conf.dump import as_dict
from ...conf.schema import Config
from .compare import FIRST_LOSS, GRADIENT, LOSS, LOW_PRECISION_SLACK, NORM, PARAMETER
from .runner import Limits, Row, zero_gradients

COLUMNS = {FIRST_LOSS: "loss 1", LOSS: "loss", NORM: "norm", GRADIENT: "gradient", PARAMETER: "parameter"}
PACKAGES = ("hexareme", "torch", "deepspeed", "numpy")


def heading(width: int) -> str:
    """Names of the columns.

    Args:
        width: characters for the layout's name.
    """
    return f"{'layout':<{width}} ranks " + " ".join(f"{name:>9}" for name in COLUMNS.values()) + "  seconds  verdict"


def line(row: Row, width: int) -> str:
    """One layout."""
    start = f"{row.case.name:<{width}} {row.case.processes:>5} "
    if row.verdict is None:
        return f"{start}refused: {row.case.refused}"
    figures = {name: difference.value for name, difference in row.verdict.differences.items()}
    cells = " ".join(f"{_figure(figures[name]) if name in figures else '-':>9}" for name in COLUMNS)
    return f"{start}{cells} {row.seconds:8.1f}  {_outcome(row)}"


def summary(rows: Sequence[Row], limits: Limits) -> str:
    """What follows the table: tolerances, what was left out of the comparison, and the verdict over all."""
    ran = [row for row in rows if row.verdict is not None]
    wrong = [row for row in ran if row.verdict is not None and not row.verdict.agrees]
    tolerances = ", ".join(f"{COLUMNS[name]} {limits.tolerances[name]:.0e}" for name in COLUMNS)
    lines = ["", "Differences are relative to one process and a plain torch loop: the largest of all steps, or of all tensors",
             f"(norm-wise; gradients of step 1, parameters after step {limits.steps}). Tolerances in fp32: {tolerances};",
             f"in bf16: {LOW_PRECISION_SLACK} times what one process in bf16 is off from fp32."]
    skipped = sorted({_rows(name, rows_of) for row in ran for name, rows_of in zero_gradients(row.case.config).items()})
    if skipped:
        lines.append(f"Not compared under AdamW, their gradient being zero (key biases): {', '.join(skipped)}.")
    refused = len(rows) - len(ran)
    lines.append(f"{len(ran) - len(wrong)} of {len(ran)} layouts agree" + (f", {refused} refused" if refused else "")
                 + "".join(f"\n  DISAGREES {row.case.name}: {_reason(row)}" for row in wrong))
    return "\n".join(lines)


def as_json(rows: Sequence[Row], limits: Limits, config: Config | None) -> dict[str, Any]:
    """The whole proof as plain values.

    Args:
        rows: of all layouts.
        limits: how they ran.
        config: the full layout's, scaled down; None: the gate has many.
    """
    ran = [row.verdict for row in rows if row.verdict is not None]
    return {
        "agrees": bool(ran) and all(verdict.agrees for verdict in ran), "steps": limits.steps,
        "tolerances": dict(limits.tolerances), "layouts": [_entry(row) for row in rows],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "config": None if config is None else as_dict(config),
    }


def _entry(row: Row) -> dict[str, Any]:
    entry: dict[str, Any] = {"layout": row.case.name, "processes": row.case.processes, "refused": row.case.refused or None,
                             "parallel": as_dict(row.case.config)["parallel"]}
    if row.verdict is None:
        return entry | {"agrees": None}
    differences = {name: {"value": _number(d.value), "step": d.step, "parameter": d.parameter or None,
                          "rank": d.rank if d.parameter else None, "tolerance": row.tolerances.get(name)}
                   for name, d in row.verdict.differences.items()}
    return entry | {"agrees": row.verdict.agrees, "largest_difference": _number(row.verdict.largest),
                    "where": None if row.verdict.agrees else _reason(row), "report": row.verdict.report or None,
                    "differences": differences, "seconds": round(row.seconds, 2),
                    "not_compared": [_rows(name, rows) for name, rows in zero_gradients(row.case.config).items()]}


def _rows(name: str, rows: slice) -> str:
    return f"{name}[{rows.start}:{rows.stop}]"


def _outcome(row: Row) -> str:
    return "agrees" if row.verdict is not None and row.verdict.agrees else f"DISAGREES: {_reason(row)}"


def _reason(row: Row) -> str:
    assert row.verdict is not None
    return "; ".join(part for part in (row.verdict.where, row.verdict.fault) if part)


def _figure(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "inf"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no infinity
