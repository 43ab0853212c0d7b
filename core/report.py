"""A run's curves as PNG files and one self-contained HTML file, from `metrics.jsonl` alone. Needs no GPU and no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .console import clock
from .report_figures import FIGURES
from .report_page import page
from .report_run import Array, Run, read_run


def write_report(folders: Sequence[Path | str], output: Path | str) -> list[Path]:
    """Draw one or several runs.

    Args:
        folders: of the runs; several are drawn into the same figures.
        output: folder for `loss.png`, `learning_rate.png`, `gradient_norm.png`, `throughput.png` and `report.html`.

    Returns:
        The files written, `report.html` last.
    """
    runs = [read_run(folder) for folder in folders]
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    images = {name: draw(runs) for name, draw in FIGURES.items()}
    files = []
    for name, image in images.items():
        files.append(output / f"{name}.png")
        files[-1].write_bytes(image)
    files.append(output / "report.html")
    files[-1].write_text(page([run.name for run in runs], [summary(run) for run in runs], images, [run.config for run in runs]))
    return files


def summary(run: Run) -> dict[str, str]:
    """The table of a run: what is read first."""
    training, validation = run.training, run.validation
    seconds, losses = float(np.nansum(training["step_seconds"])), validation["validation_loss"]
    table = {
        "Steps": f"{int(run.steps[-1]):,}" if run.steps.size else "0",
        "Final loss": _last(training["loss"], "{:.4f}"),
        "Final validation loss": _last(losses, "{:.4f}"),
        "Final validation perplexity": _last(validation["validation_perplexity"], "{:.2f}"),
        "Best validation loss": _least(validation["step"], losses),
        "Tokens seen": _last(training["tokens_seen"], "{:,.0f}"),
        "Tokens/s, median": _median(training["tokens_per_second"], "{:,.0f}"),
        "Time in steps": clock(seconds),
        "Peak memory of rank 0": f"{np.nanmax(training['memory_bytes']) / 2**30:.2f} GiB" if run.steps.size else "none",
        "Ended": _ended(run.exit),
    }
    if np.isfinite(training["model_flops_utilization"]).any():  # the device's peak is known
        table["MFU, median"] = _median(training["model_flops_utilization"], "{:.1%}")
    if run.non_finite_steps:
        table["Steps with non-finite numbers"] = f"{run.non_finite_steps:,}"
    return table


def _last(values: Array, form: str) -> str:
    if not values.size:
        return "none"
    return form.format(values[-1]) if np.isfinite(values[-1]) else "not finite"


def _median(values: Array, form: str) -> str:
    finite = values[np.isfinite(values)]
    return form.format(np.median(finite)) if finite.size else "none"


def _least(steps: Array, values: Array) -> str:
    if not np.isfinite(values).any():
        return "none"
    best = int(np.nanargmin(values))
    return f"{values[best]:.4f} at step {steps[best]:,.0f}"


def _ended(exit_file: dict[str, Any]) -> str:
    if not exit_file:
        return "not yet, or killed"
    return f"{exit_file.get('reason', 'unknown')} (exit code {exit_file.get('code', 'unknown')})"
