"""What the forked rank process runs: imports torch, joins the others, trains; told to stop by a signal, it says so to the loop."""

import logging
import signal
from pathlib import Path
from types import FrameType

from ..conf.schema import Config
from ..core.heartbeat import Heartbeat, TicksOfImports
from ..core.oversight import Oversight
from ..core.pulse import Pulse
from .environment import Environment, on_cpu
from .folder.fence import Fence
from .watch.rank_process import log_file
from .watch.vigil import watched_signals

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class StopFlag:
    """Set by SIGTERM, SIGINT and SIGUSR1; the ranks agree on it at the next step's edge."""

    def __init__(self) -> None:
        self.signal = 0

    def install(self) -> None:
        """Before the slow imports. From here on signals come in: before, they were blocked, as an unhandled SIGUSR1 ends a process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched_signals())

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.signal != 0


def run_rank(config: Config, environment: Environment, pulse: Pulse) -> str:
    """One rank from the first import to the last checkpoint.

    Args:
        config: resolved and checked.
        environment: this process's place among the ranks.
        pulse: where it leaves signs of life for its watcher.

    Returns:
        The reason for `exit.json`: completed or stop_at.

    Raises:
        RunError, DataError, ConfigError: with the exit code and the way out.
    """
    stop = StopFlag()
    stop.install()
    directory = Path(config.run.directory)
    own_log = log_file(directory, 0) if environment.rank == 0 else None  # the others' standard error is their log
    logging.basicConfig(filename=own_log, level=logging.INFO, format=LOG_FORMAT, force=True)
    heartbeat = Heartbeat(pulse, accelerator=not on_cpu()).start()
    TicksOfImports(pulse.tick).install()

    from ..core.engine.distributed import as_peer_error, start_distributed, stop_distributed
    from .gathering import gather

    met = gather(config, environment, tick=pulse.tick, stop_requested=stop.is_set)
    environment.membership.admit(met.token)
    fence = Fence(directory, met.token)
    device = start_distributed(rank=environment.rank, world_size=environment.world_size, local_rank=environment.local_rank,
                               store=met.store, deterministic=config.train.deterministic)
    try:
        from ..core.run import Place, train

        place = Place(environment.rank, environment.world_size, environment.local_rank, device)
        return train(config, place, Oversight(stop_requested=stop.is_set, pulse=pulse, waited_seconds=heartbeat.waited_seconds,
                                              fence=fence, fence_lately=fence.lately))
    except RuntimeError as error:
        raise (as_peer_error(error) or error) from error
    finally:
        stop_distributed()
