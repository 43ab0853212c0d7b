"""The four figures of a report, with matplotlib's object interface: no window system, no global state."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .console import short
from .report_run import Array, Run

COLORS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2")  # told apart also by colour-blind readers, in this order
INK, MUTED, FAINT = "#1f2937", "#6b7280", "#e5e7eb"
WIDTH, HEIGHT, DPI = 8.0, 4.0, 150  # inches, and dots an inch
POINTS = 4000  # drawn for each raw curve; more than the picture has pixels across
WINDOWS = 40  # a smoothed point averages this part of the run ...
LONGEST_WINDOW = 201  # ... but never more steps than this
WIDE = 8.0  # a ratio of largest to least from which a logarithmic axis reads better


def draw_loss(runs: Sequence[Run]) -> bytes:
    """Training loss, raw and smoothed, with validation points."""
    figure, axes = _figure("Loss", "loss (nats per token)", runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        _curve(axes, run, "loss", color=color, label="training" if len(runs) == 1 else run.name)
        if run.validation["step"].size:
            axes.plot(run.validation["step"], run.validation["validation_loss"], "o-", color=INK if len(runs) == 1 else color, markersize=4,
                      markeredgecolor="white", linewidth=1, label="validation" if len(runs) == 1 else "_", zorder=4)
    _log_where_wide(axes, [run.training["loss"] for run in runs])
    _token_axis(axes, runs)
    return _png(figure, axes)


def draw_learning_rate(runs: Sequence[Run]) -> bytes:
    """The schedule as it was used."""
    figure, axes = _figure("Learning rate", "learning rate", runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        axes.plot(run.steps, run.training["learning_rate"], color=color, linewidth=1.8, label=run.name, marker=_marker(run))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scientific(value)))
    return _png(figure, axes)


def draw_gradient_norm(runs: Sequence[Run]) -> bytes:
    """Global gradient norm before clipping."""
    figure, axes = _figure("Gradient norm", "global gradient norm before clipping", runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        _curve(axes, run, "grad_norm", color=color, label=run.name)
    _log_where_wide(axes, [run.training["grad_norm"] for run in runs])
    return _png(figure, axes)


def draw_throughput(runs: Sequence[Run]) -> bytes:
    """Tokens a second, with the median."""
    figure, axes = _figure("Throughput", "tokens per second, all ranks", runs)
    for run, color in zip(runs, _colors(runs), strict=True):
        _curve(axes, run, "tokens_per_second", color=color, label="moving average" if len(runs) == 1 else run.name)
        if run.steps.size:
            median = float(np.nanmedian(run.training["tokens_per_second"]))
            label = f"median {short(median)}" if len(runs) == 1 else "_"
            axes.axhline(median, color=color, linewidth=1, linestyle=(0, (4, 4)), label=label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return _png(figure, axes)


FIGURES: dict[str, Callable[[Sequence[Run]], bytes]] = {
    "loss": draw_loss, "learning_rate": draw_learning_rate, "gradient_norm": draw_gradient_norm, "throughput": draw_throughput}


def smooth(values: Array, window: int) -> Array:
    """Centred moving average that leaves out what is not finite.

    At the beginning windows shrink on both sides alike, so that the first steep fall is not flattened; at the end only on the right, so
    that the last value is not a single step's.

    Args:
        values: of consecutive steps, (steps,).
        window: most values of one average.
    """
    index = np.arange(values.size)
    left = np.minimum(index, window // 2)
    right = np.minimum(left, values.size - 1 - index)
    finite = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(finite, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(finite)))
    total, used = sums[index + right + 1] - sums[index - left], counts[index + right + 1] - counts[index - left]
    return np.divide(total, used, out=np.full(values.size, np.nan), where=used > 0)


def scientific(value: float) -> str:
    """3e-4 rather than 0.0003 or 3e-04."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def thin(steps: Array, values: Array, points: int) -> tuple[Array, Array]:
    """At most about `points` points that keep every spike: the least and the greatest of each block."""
    if steps.size <= points:
        return steps, values
    kept: list[int] = []
    for block in np.array_split(np.arange(steps.size), points // 2):
        low = int(np.argmin(np.where(np.isfinite(values[block]), values[block], np.inf)))
        high = int(np.argmax(np.where(np.isfinite(values[block]), values[block], -np.inf)))
        kept += sorted({int(block[low]), int(block[high])})
    return steps[kept], values[kept]


def _figure(title: str, label: str, runs: Sequence[Run]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    last = max((run.steps[-1] for run in runs if run.steps.size), default=0.0)
    axes.set_xlim(0, max(2.0, 1.01 * last))
    if last == 0:
        axes.text(0.5, 0.5, "no steps yet", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    return figure, axes


def _colors(runs: Sequence[Run]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(runs))]


def _marker(run: Run) -> str:
    """A line of one point is invisible."""
    return "o" if run.steps.size == 1 else ""


def _curve(axes: Axes, run: Run, key: str, *, color: str, label: str) -> None:
    """The raw values faintly, and their moving average; steps without a finite value are marked on the axis."""
    steps, values = run.steps, run.training[key]
    window = int(np.clip(steps.size // WINDOWS, 1, LONGEST_WINDOW))
    if window > 1:
        axes.plot(*thin(steps, values, POINTS), color=color, alpha=0.25, linewidth=0.8)
    axes.plot(*thin(steps, smooth(values, window), POINTS), color=color, linewidth=1.8, label=label, marker=_marker(run), zorder=3)
    wrong = steps[~np.isfinite(values)]
    if wrong.size:
        axes.plot(wrong, np.zeros(wrong.size), "x", color="#dc2626", markersize=6, transform=axes.get_xaxis_transform(), clip_on=False,
                  label="not finite", zorder=5)


def _log_where_wide(axes: Axes, columns: Sequence[Array]) -> None:
    values = np.concatenate(columns) if columns else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size or values.min() <= 0 or values.max() / values.min() < WIDE:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _token_axis(axes: Axes, runs: Sequence[Run]) -> None:
    """Tokens seen along the top, where one scale holds for all that is drawn."""
    rates = {float(rate) for run in runs for rate in np.unique(run.training["tokens_seen"] / run.steps)}
    if len(rates) != 1:
        return
    rate = rates.pop()
    top = axes.secondary_xaxis("top", functions=(lambda step: np.asarray(step) * rate, lambda tokens: np.asarray(tokens) / rate))
    top.set_xlabel("tokens seen", color=MUTED, fontsize=9)
    top.tick_params(colors=MUTED, labelsize=8)
    top.spines["top"].set_visible(False)
    top.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    top.xaxis.set_major_formatter(EngFormatter(sep=""))


def _png(figure: Figure, axes: Axes) -> bytes:
    labelled = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # label -> handle: each label once
    if len(labelled) > 1:
        axes.legend(list(labelled.values()), list(labelled), frameon=False, fontsize=9, labelcolor=INK)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
