"""What a person sees of a run: one line in place where the output is a terminal, otherwise a plain line each few steps."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from .metrics import StepMetrics, ValidationMetrics

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.25  # drawing costs about a millisecond
GAP = "  "  # between the numbers of a line
LEAST_NEEDED = ("MFU", "lr", "grad norm", "eta")  # left out in this order where the terminal is narrow
BAR_WIDTH, WIDE = 20, 140  # the bar is drawn only where there is room for it and all the numbers
RATE_MEMORY = 0.9  # weight of the past in the smoothed seconds per step


class Console:
    """Progress of one run on rank 0's standard output; every other rank prints nothing.

    Args:
        steps: the step at which the run ends.
        interval: steps between plain lines (`tracking.console_interval`); a terminal is redrawn a few times a second instead.
        rank: of this process.
        stream: where to print; None: standard output.
    """

    def __init__(self, *, steps: int, interval: int, rank: int = 0, stream: TextIO | None = None) -> None:
        self._steps, self._interval, self._silent = steps, interval, rank != 0
        self._stream = sys.stdout if stream is None else stream
        self._eta = Eta(steps)
        self._live: tuple[Progress, TaskID] | None = None
        self._drawn = 0.0
        self._last_line = 0
        if not self._silent and self._stream.isatty():
            self._live = _start_live(self._stream, steps)

    def step(self, metrics: StepMetrics) -> None:
        """Show a step that has just ended."""
        if self._silent:
            return
        now = time.monotonic()
        self._eta.step(metrics.step, now)
        last = metrics.step >= self._steps
        if self._live is not None:
            if last or now - self._drawn >= REFRESH_SECONDS:
                self._drawn = now
                self._draw(metrics)
        elif last or self._last_line == 0 or metrics.step % self._interval == 0:
            self._last_line = metrics.step
            width = len(str(self._steps))
            self.line(f"step {metrics.step:>{width}}/{self._steps}  {describe(metrics)}  eta {self._eta}")

    def validation(self, metrics: ValidationMetrics) -> None:
        """Show a validation, as a line that stays."""
        self.line(f"validation at step {metrics.step}: loss {metrics.validation_loss:.4f}  perplexity {metrics.validation_perplexity:.2f}")

    def layout(self, lines: Sequence[str]) -> None:
        """Show how the run lies on its ranks, before the first step; the whole picture is in rank 0's log."""
        for line in lines:
            self.line(line)

    def stage_memory(self, stages: Sequence[int]) -> None:
        """Show the largest memory, in bytes, that a rank of each place of the pipeline has held; nothing where there is no pipeline."""
        if len(stages) > 1:
            self.line("largest memory along the pipeline: " + GAP.join(f"{place}: {short(held)}B" for place, held in enumerate(stages)))

    def line(self, message: str) -> None:
        """Print one line that stays, above the live line if there is one."""
        if self._silent:
            return
        if self._live is not None:
            self._live[0].console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(message, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the live line as it stands and give the terminal back."""
        if self._live is not None:
            self._live[0].stop()
            self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _draw(self, metrics: StepMetrics) -> None:
        assert self._live is not None
        progress, task = self._live
        parts = [f"step {metrics.step}/{self._steps}", *_parts(metrics), f"eta {self._eta}"]
        progress.update(task, completed=metrics.step, line=fit(parts, progress.console.width, first_out=LEAST_NEEDED))
        progress.refresh()


class Eta:
    """Time to the end, from the smoothed wall-clock time between steps, so that validations and checkpoints count too."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step: int | None = None
        self._time = 0.0
        self._seconds: float | None = None

    def step(self, step: int, now: float) -> None:
        """Note that `step` ended at `now` (seconds, monotonic). The first call only starts the clock: what came before is start-up."""
        if self._step is not None and step > self._step:
            each = (now - self._time) / (step - self._step)
            self._seconds = each if self._seconds is None else RATE_MEMORY * self._seconds + (1 - RATE_MEMORY) * each
        self._step, self._time = step, now

    def __str__(self) -> str:
        if self._seconds is None or self._step is None:
            return "-:--"
        return clock(self._seconds * max(0, self._steps - self._step))


def describe(metrics: StepMetrics) -> str:
    """The numbers of a step on one line."""
    return GAP.join(_parts(metrics))


def _parts(metrics: StepMetrics) -> list[str]:
    parts = [f"loss {metrics.loss:.4f}", f"lr {metrics.learning_rate:.2e}", f"grad norm {metrics.grad_norm:.3f}",
             f"{short(metrics.tokens_per_second)} tokens/s"]
    if metrics.model_flops_utilization is not None:
        parts.append(f"MFU {metrics.model_flops_utilization:.1%}")
    return parts


def fit(parts: Sequence[str], width: int, *, first_out: Sequence[str]) -> str:
    """As many parts as fit on one line of a terminal.

    Args:
        parts: in the order of the line.
        width: in characters.
        first_out: how the parts begin that may be left out, the least needed first.
    """
    kept = list(parts)
    for beginning in first_out:
        if len(GAP.join(kept)) < width:
            break
        kept = [part for part in kept if not part.startswith(beginning)]
    return GAP.join(kept)


def short(value: float) -> str:
    """A number with three digits and a unit: 12345 -> 12.3k."""
    rounded = float(f"{value:.3g}")  # first, or 999999 would read 1000k
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:g}{unit}"
    return f"{rounded:g}"


def clock(seconds: float) -> str:
    """A duration as m:ss, h:mm:ss or days."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _start_live(stream: TextIO, steps: int) -> "tuple[Progress, TaskID]":
    from rich.console import Console as RichConsole  # only where there is a terminal to draw on
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = RichConsole(file=stream)
    text = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True))
    columns = (BarColumn(bar_width=BAR_WIDTH), text) if console.width >= WIDE else (text,)
    # No refresh thread: it would take the interpreter from the training loop at moments the loop does not choose.
    progress = Progress(*columns, console=console, auto_refresh=False)
    task = progress.add_task("", total=steps, line="starting")
    progress.start()
    return progress, task
