"""`hexareme bench`: measures what the performance table claims."""

import json
import os
import tempfile
from pathlib import Path

from ...conf.commands_schema import BenchConfig
from ...conf.compose import compose
from ...conf.schema import Config
from ..environment import read_environment


def main(overrides: list[str]) -> int:
    """Prints the figures; writes them as JSON where `output` names a file.

    Returns:
        0.
    """
    config = compose("bench", overrides)
    from ...core.engine.distributed import start_distributed, stop_distributed
    from ...core.engine.overhead import measure_overhead, write_random_corpus

    here = read_environment({})
    os.environ.update(here.variables())  # DeepSpeed asks for LOCAL_RANK
    start_distributed(rank=0, world_size=1, local_rank=0, master_address=here.master_address, master_port=here.master_port)
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
    if config.output:
        Path(config.output).write_text(json.dumps({name: round(value, 4) for name, value in rows.items()}, indent=2) + "\n")
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
