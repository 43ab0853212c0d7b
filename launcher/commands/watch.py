"""`hexareme watch directory=<run>`: a run live in the terminal. Reads the run folder alone; works over ssh, on any host that sees it."""

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...conf.commands_schema import WatchConfig
from ...conf.compose import compose, load_yaml
from ...conf.errors import ConfigError, Problem
from ...core.checkpoint.storage import in_words
from ...core.watching import Watched, chart

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NARROW = 100  # columns, below which there is one chart in a row
WAITED_SECONDS = 0.2


def main(overrides: list[str]) -> int:
    """Draws until the run ends or Ctrl-C; once where the output is no terminal.

    Returns:
        0.

    Raises:
        ConfigError: the folder is no run's.
    """
    from rich.console import Console
    from rich.live import Live

    config = compose("watch", overrides)
    directory = Path(config.directory)
    if not (directory / "config.yaml").is_file():
        raise ConfigError([Problem("directory", config.directory, "is no run folder: it has no config.yaml",
                                   "name the folder of a run, as in directory=runs/quickstart")])
    last, watched, console = load_yaml(directory / "config.yaml").train.steps, Watched(directory), Console()
    watched.look()
    if config.once or not sys.stdout.isatty():
        console.print(picture(watched, last, config, console))
        return 0
    with Live(picture(watched, last, config, console), console=console, screen=True, auto_refresh=False) as live:
        try:
            while not watched.ended():
                time.sleep(max(WAITED_SECONDS, config.seconds))
                watched.look()
                live.update(picture(watched, last, config, console), refresh=True)
        except KeyboardInterrupt:
            sys.stdout.flush()
    console.print(picture(watched, last, config, console))
    return 0


def picture(watched: Watched, last: int, config: WatchConfig, console: "Console") -> "RenderableType":
    """Everything of one moment.

    Args:
        watched: the run.
        last: its last step.
        config: of the command.
        console: whose size it fits.
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    step = watched.steps[-1] if watched.steps else 0
    wide = console.width >= NARROW
    width = (console.width // 2 if wide else console.width) - 5
    height = max(5, min(14, (console.height - 10) // (2 if wide else 4)))
    since = max(0, len(watched.steps) - config.last) if config.last else 0
    panels = []
    for name, title in (("loss", "loss"), ("grad_norm", "gradient norm"), ("tokens_per_second", "tokens a second"),
                        ("learning_rate", "learning rate")):
        lines = chart(watched.steps[since:], watched.columns[name][since:], width=width, height=height)
        panels.append(Panel(Text("\n".join(lines), no_wrap=True), title=title, width=width + 4, height=height + 2))
    bar = ProgressBar(total=max(last, 1), completed=step, width=max(10, console.width - 30))
    return Group(Text(headline(watched, last), style="bold"), Columns([bar, Text(f"{step:,} of {last:,} steps")]),
                 Text(figures(watched.newest)), Text(validations(watched)), Columns(panels))


def headline(watched: Watched, last: int) -> str:
    """The run's name, and how it stands."""
    ended = watched.ended()
    if ended:
        words = f"ended: {ended.get('reason')}, exit code {ended.get('code')}"
        words += f" (do: {ended['do']})" if ended.get("do") else ""
    elif not watched.steps:
        words = "no step yet"
    elif silent := watched.silent_seconds():
        words = f"no step for {duration(silent)}: see logs/, or `hexareme doctor`"
    else:
        words = f"running, {duration(watched.seconds_left(last))} left"
    return f"{watched.directory}  {words}"


def figures(row: Any) -> str:
    """The newest step's numbers."""
    if not row:
        return ""
    found = [f"loss {_number(row, 'loss')}", f"grad norm {_number(row, 'grad_norm')}", f"lr {_number(row, 'learning_rate')}",
             f"{_number(row, 'tokens_per_second', ',.0f')} tokens/s", f"{_number(row, 'step_seconds')} s a step",
             f"{row.get('tokens_seen', 0):,} tokens"]
    if row.get("model_flops_utilization") is not None:
        found.append(f"MFU {row['model_flops_utilization']:.1%}")
    found.append(f"memory {in_words(row.get('memory_bytes') or 0)}")
    return "  ".join(found)


def validations(watched: Watched) -> str:
    """The last few, and the best."""
    if not watched.validation:
        return ""
    best = min(watched.validation, key=lambda each: each[1])
    shown = ", ".join(f"{loss:.4f} at {step:,}" for step, loss in watched.validation[-3:])
    return f"validation {shown}; best {best[1]:.4f} at {best[0]:,}"


def duration(seconds: float) -> str:
    """As `1:02:03`; a dash where it is not known."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _number(row: Any, key: str, form: str = ".4g") -> str:
    return "not finite" if row.get(key) is None else format(row[key], form)
