"""Brings this process's place among the ranks to the meeting. Imports torch: for processes that become ranks."""

import time
from collections.abc import Callable
from pathlib import Path

from ..conf.dump import as_dict
from ..conf.schema import Config
from ..core.meeting import Met, Patience, Venue, meet, own_card
from .environment import Environment
from .folder.membership import seen_token

TELLING_SECONDS = 15.0  # for rank 0's lock to be seen on a network disk; then the port that all can compute must do


def gather(config: Config, environment: Environment, *, tick: Callable[[], None], stop_requested: Callable[[], bool]) -> Met:
    """Meets the other ranks of a training run.

    Args:
        config: of the run.
        environment: this process's place.
        tick: called while it waits.
        stop_requested: whether somebody asks this process to stop.

    Raises:
        RunError: as `core.meeting.meet`.
    """
    directory = Path(config.run.directory)
    card = own_card(environment.rank, environment.world_size, folder=str(directory.resolve()))
    return meet(card, venue_of(environment, directory), config=as_dict(config), token=lambda: seen_token(directory),
                patience=Patience(config.run.hang_timeout, tick=tick, stop_requested=stop_requested))


def venue_of(environment: Environment, directory: Path | None = None) -> Venue:
    """Where the ranks meet.

    Args:
        environment: this process's place.
        directory: of the run; its lock says where rank 0 listens, if that had to take another port.
    """
    begun = time.monotonic()

    def port() -> int | None:
        if directory is None or not environment.port_is_ours or environment.rank == 0:
            return environment.master_port
        late = time.monotonic() - begun > TELLING_SECONDS
        return environment.membership.port(directory) or (environment.master_port if late else None)

    return Venue(address=environment.master_address, port=port, listener=environment.listener, agent_store=environment.agent_store,
                 attempt=environment.membership.attempt)
