"""`hexareme prove`: a training config, scaled down, on every smaller layout of local processes against one process."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ...conf.prove_schema import ProveConfig
from ...conf.schema import Config, OptimizerName, Precision
from ...conf.sources import all_sources, sources, stages
from ...core.combine import problems
from ...core.corpora import task_rules
from ...core.proof.gate import gate_cases
from ...core.proof.layouts import Case, smaller_layouts
from ...core.proof.shrink import least_processes, shrink, training_config

if TYPE_CHECKING:
    from ...core.proof.runner import Limits, Row

FINDING = 1


def main(overrides: list[str]) -> int:
    """Prints a table while the layouts run, and writes proof.json.

    Returns:
        0 if every layout agrees, otherwise 1.

    Raises:
        ConfigError: the config cannot run at full size, or no layout is left to run.
    """
    config = compose("prove", overrides)
    small, cases = (None, gate_cases(_training, quick=config.quick)) if config.all else scaled_down(config)
    cases = [case for case in cases if config.only in case.name]
    if not cases:
        raise ConfigError([Problem("only", config.only, "is in the name of no layout", "leave it out to see their names")])
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    rows, limits = run(config, cases)
    from ...core.proof.table import as_json, summary

    print(summary(rows, limits))
    found = as_json(rows, limits, small)
    path = output_path(config)
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written: {path}")
    return 0 if found["agrees"] else FINDING


def scaled_down(config: ProveConfig) -> tuple[Config, list[Case]]:
    """The config's own layout scaled down, and every smaller one.

    Raises:
        ConfigError: the config could not run, or cannot be proven.
    """
    whole = training_config(config)
    world_size = max(config.cluster.nodes * config.cluster.ranks_per_node, least_processes(whole.parallel))
    named = [("data.train", path) for path in all_sources(sources(whole.data.train), stages(whole.data.stages)) if Path(path).is_dir()]
    wrong = [*problems(whole, world_size=world_size), *unproven(whole), *task_rules(whole, named)]
    if wrong:
        raise ConfigError(wrong)
    small, processes = shrink(whole, processes=config.processes, steps=config.steps)
    return small, list(smaller_layouts(small, processes))


def unproven(config: Config) -> list[Problem]:
    """What one process cannot say anything exact about."""
    found = []
    if config.train.precision is Precision.fp16:
        found.append(Problem("train.precision", config.train.precision, "skips steps by its loss scale, so that there is no course to "
                             "compare", "prove it with train.precision=fp32 or bf16"))
    if config.optimizer.name is OptimizerName.lion:
        found.append(Problem("optimizer.name", config.optimizer.name, "updates by signs, and rounding turns the sign of a small gradient",
                             "prove it with optimizer=sgd, which leaves everything else as it is"))
    return found


def run(config: ProveConfig, cases: Sequence[Case]) -> tuple[list["Row"], "Limits"]:
    """Runs the cases and prints their lines as they finish."""
    from ...core.engine.warm import warm_up
    from ...core.proof.runner import Limits, prove
    from ...core.proof.table import heading, line

    warm_up()
    limits = Limits(steps=config.steps, timeout=config.timeout, jobs=config.jobs, tolerances=config.tolerances())
    width = max(len(case.name) for case in cases)
    print(heading(width), flush=True)
    rows: list[Row] = []
    progress = Progress(len(cases))
    for row in prove(cases, limits, started=progress.started):
        rows.append(row)
        progress.finished()
        print(line(row, width), flush=True)
    progress.close()
    return rows, limits


class Progress:
    """One line on a terminal that says what runs; elsewhere the table's own lines are the progress.

    Args:
        total: layouts.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._shown = total, 0, sys.stderr.isatty()

    def started(self, name: str) -> None:
        """A layout starts."""
        self._write(f"[{self._done}/{self._total}] {name}"[: os.get_terminal_size(sys.stderr.fileno()).columns - 1] if self._shown else "")

    def finished(self) -> None:
        """A layout's line is about to be printed."""
        self._done += 1
        self._write("")

    def close(self) -> None:
        """Nothing runs any more."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def output_path(config: ProveConfig) -> Path:
    """Where the result goes."""
    folder = Path(config.run.directory)
    return Path(config.output) if config.output else (folder if folder.is_dir() else Path()) / "proof.json"


def _training(overrides: list[str]) -> Config:
    config = compose("train", overrides)
    assert isinstance(config, Config)
    return config
