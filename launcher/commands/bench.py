"""`hexareme bench`: measures what the performance table claims, each figure beside its theory where there is one."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...conf.commands_schema import BenchConfig, Suite
from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ...conf.schema import Config
from ..environment import read_environment

if TYPE_CHECKING:
    from ...core.bench.suite import Work


def main(overrides: list[str]) -> int:
    """Prints the figures; writes them as JSON where `output` names a file.

    Returns:
        0; 1 where a figure is farther from its theory than the suite allows.
    """
    config = compose("bench", overrides)
    if config.suite is Suite.overhead:
        return overhead(config)
    if config.suite is Suite.data:
        return data(config)
    if config.suite is Suite.tokenize:
        return tokenize(config)
    return checkpoint(config) if config.suite is Suite.checkpoint else against_theory(config)


def checkpoint(config: BenchConfig) -> int:
    """A save and a load of a state of random numbers, in a folder that is removed at the end."""
    from ...core.bench.checkpoint import Setting
    from ...core.bench.suite import checkpoint_work

    with tempfile.TemporaryDirectory(prefix="hexareme-bench-", dir=config.directory) as folder:
        return show(config, checkpoint_work(Setting(config.state_bytes, config.ranks, config.rounds, Path(folder))))


def data(config: BenchConfig) -> int:
    """Opening and reading a corpus that is made for it and removed at the end."""
    from ...core.bench.data import DataSetting
    from ...core.bench.suite import data_work

    with tempfile.TemporaryDirectory(prefix="hexareme-bench-", dir=config.directory) as folder:
        setting = DataSetting(config.tokens, config.documents, config.sequence_length, config.samples, Path(folder))
        return show(config, data_work(setting))


def tokenize(config: BenchConfig) -> int:
    """Text that is made for it and removed at the end, through bare encoders and through `prepare`."""
    from ...core.bench.suite import tokenize_work
    from ...core.bench.tokenize import TokenizeSetting

    with tempfile.TemporaryDirectory(prefix="hexareme-bench-", dir=config.directory) as folder:
        return show(config, tokenize_work(TokenizeSetting(config.text_bytes, config.document_bytes, config.rounds, Path(folder))))


def against_theory(config: BenchConfig) -> int:
    """bytes, bubble and memory: on forked ranks of this machine."""
    from ...core.bench.suite import work_of

    work = work_of(config.suite.value, quick=config.quick, only=config.only, pass_seconds=config.pass_ms / 1000)
    if not work:
        raise ConfigError([Problem("only", config.only, f"is in no name of suite={config.suite.value}'s cases",
                                   "leave it out to see them all")])
    return show(config, work)


def show(config: BenchConfig, work: "Sequence[Work]") -> int:
    """Runs the cases, prints and writes their rows; 1 where a figure is outside its limit."""
    from ...core.bench.suite import findings
    from ...core.bench.table import HEADER, as_json, line

    result: dict[str, Any] = {"suite": config.suite.value, "cases": []}
    for found in findings(work, lambda text: print(text, flush=True)):
        for text in [HEADER, *(line(row, found.limit) for row in found.rows)] if found.rows else []:
            print(text, flush=True)
        if found.failure:
            print(f"  FAILED: {found.failure}", flush=True)
        result["cases"].append({"name": found.case, "holds": found.holds, "failure": found.failure, "tolerance": found.limit.tolerance,
                                "relative": found.limit.relative, "rows": [as_json(row, found.limit) for row in found.rows]})
    wrong = [case["name"] for case in result["cases"] if not case["holds"]]
    result["holds"] = not wrong
    tolerance = result["cases"][0]["tolerance"]
    unit = f"{100 * tolerance:g} % of" if result["cases"][0]["relative"] else f"{tolerance:g} of"
    where = f"within {unit} the theory" if tolerance else "inside of its bounds"
    print(f"{where}: {len(result['cases']) - len(wrong)} of {len(result['cases'])}"
          + (f"; outside: {', '.join(wrong)}" if wrong else ""))
    write(config.output, result)
    return 1 if wrong else 0


def write(output: str, result: Mapping[str, Any]) -> None:
    """The result as JSON, where a file is named."""
    if output:
        Path(output).write_text(json.dumps(result, indent=2) + "\n")


def overhead(config: BenchConfig) -> int:
    """CPU time of a step in one process, beside a bare torch loop and DeepSpeed's own."""
    from torch.distributed import HashStore

    from ...core.engine.distributed import start_distributed, stop_distributed
    from ...core.engine.overhead import measure_overhead, write_random_corpus

    here = read_environment({})
    os.environ.update(here.variables())  # DeepSpeed asks for LOCAL_RANK
    start_distributed(rank=0, world_size=1, local_rank=0, store=HashStore())
    try:
        with tempfile.TemporaryDirectory(prefix="hexareme-bench-") as folder:
            (Path(folder) / "run").mkdir()
            corpus = write_random_corpus(Path(folder), vocab_size=config.model.vocab_size, tokens=1 << 20)
            found = measure_overhead(training_config(config, corpus, folder), steps=config.steps, rounds=config.rounds)
    finally:
        stop_distributed()
    rows = {"torch": found.torch_ms, "deepspeed": found.deepspeed_ms, "hexareme": found.hexareme_ms,
            "hexareme beyond deepspeed": found.beyond_deepspeed_ms}
    print(f"CPU milliseconds of one step (median of {config.rounds} interleaved rounds of {config.steps} steps)")
    for name, milliseconds in rows.items():
        print(f"  {name:<26} {milliseconds:8.2f}")
    write(config.output, {name: round(value, 4) for name, value in rows.items()})
    return 0


def training_config(config: BenchConfig, corpus: str, folder: str) -> Config:
    """A run on one process with the model under test."""
    training = compose("train", [
        f"data.train={corpus}", "data.validation=none", f"run.directory={folder}/run", "run.name=bench", "tracking.wandb=disabled",
        f"train.steps={(config.rounds + 2) * config.steps}", f"batch.global_size={config.micro_size}",
        f"batch.micro_size={config.micro_size}", "checkpoint.interval=0", f"tracking.console_interval={10**9}",
    ])
    training.model = config.model
    assert isinstance(training, Config)
    return training
