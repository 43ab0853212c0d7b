"""`hexareme train`: validates the run, then starts its ranks."""

import os
from pathlib import Path

from ...conf.compose import compose
from ..environment import FrontEnd, computes_fp16, read_environment
from ..outcome import complain
from ..rank import run_rank
from ..supervisor import start_supervised
from ..watch.watcher import main as watch
from ..watch.watcher import validated


def main(overrides: list[str]) -> int:
    """Starts cluster.ranks_per_node ranks on this machine; below torchrun, srun or mpirun it is itself one rank.

    Args:
        overrides: of the configuration.

    Returns:
        The exit code of the first cause (DESIGN.md 2.4).
    """
    try:
        if read_environment(os.environ).front_end is not FrontEnd.python:
            return watch(overrides, run_rank)
        ranks = int(compose("train", overrides).cluster.ranks_per_node)
        config = validated(overrides, ranks, fp16=computes_fp16())
    except Exception as error:
        return complain(error, rank=0)
    return start_supervised(overrides, ranks=ranks, directory=Path(config.run.directory), restarts=config.run.restarts)
