"""What the forked rank process runs: imports torch, joins the others, trains; told to stop by a signal, it says so to the loop."""

import json
import logging
import os
import signal
from pathlib import Path
from types import FrameType

from ..conf.schema import Config
from .environment import Environment

log = logging.getLogger(__name__)


class StopFlag:
    """Set by SIGTERM, SIGINT and SIGUSR1; the ranks agree on it at the next step's edge."""

    def __init__(self) -> None:
        self.signal = 0

    def install(self) -> None:
        """Before the slow imports: an unhandled SIGUSR1 would end the process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def __bool__(self) -> bool:
        return self.signal != 0


def run_rank(config: Config, environment: Environment) -> str:
    """One rank from the first import to the last checkpoint.

    Args:
        config: resolved and checked.
        environment: this process's place among the ranks.

    Returns:
        The reason for `exit.json`: completed or stop_at.

    Raises:
        RunError, DataError, ConfigError: with the exit code and the way out.
    """
    stop = StopFlag()
    stop.install()
    _write_logs(Path(config.run.directory), environment.rank)
    _limit_threads(environment)

    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)

    from ..core.engine.distributed import as_peer_error, start_distributed, stop_distributed
    from ..core.run import Place, open_run

    device = start_distributed(
        rank=environment.rank, world_size=environment.world_size, local_rank=environment.local_rank,
        master_address=environment.master_address, master_port=environment.master_port, timeout_seconds=config.run.hang_timeout,
    )
    place = Place(environment.rank, environment.world_size, environment.local_rank, device)
    try:
        return _train(config, place, stop, open_run)
    except RuntimeError as error:
        lost = as_peer_error(error)
        raise (lost or error) from error
    finally:
        stop_distributed()
