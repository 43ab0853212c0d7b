"""How busy each rank is in a step, told to all with the loss; rank 0 names those that hold the others up."""

import logging
import socket
import time
from collections.abc import Callable, Sequence

import torch.distributed as dist

from ..parallel.topology import Topology
from .straggler import Straggler, StragglerWatch

log = logging.getLogger(__name__)


class Pace:
    """One rank's part; made by all ranks together.

    Args:
        topology: says who does the same work.
        rank: this one.
        waited_seconds: how long this rank's main thread has waited for others so far.
        tell: prints a line on the console; None but on rank 0.
    """

    def __init__(self, topology: Topology, rank: int, *, waited_seconds: Callable[[], float], tell: Callable[[str], None] | None) -> None:
        ranks = topology.world_size
        self._rank, self._waited_seconds, self._tell = rank, waited_seconds, tell
        self._busy = [0.0] * ranks
        self._hosts = [""] * ranks
        if ranks > 1:
            dist.all_gather_object(self._hosts, socket.gethostname())
        self._watch = StragglerWatch([topology.coordinate(each).pp for each in range(ranks)])

    def begin(self) -> None:
        """A step begins."""
        self._began, self._waited = time.perf_counter(), self._waited_seconds()

    def votes(self) -> list[float]:
        """This rank's busy seconds in the step before this one, at its own place of one number for each rank."""
        return self._busy

    def end(self, busy_seconds: Sequence[float]) -> None:
        """A step ends.

        Args:
            busy_seconds: the sums of all ranks' votes.
        """
        waited = self._waited_seconds() - self._waited
        self._busy[self._rank] = max(0.0, time.perf_counter() - self._began - waited)
        if self._tell is None or len(busy_seconds) < 2 or not any(busy_seconds):
            return
        for found in self._watch.add(busy_seconds):
            self._tell(f"WARNING: {self._words(found)}")
            log.warning("%s", self._words(found))

    def _words(self, found: Straggler) -> str:
        return (f"rank {found.rank} on {self._hosts[found.rank]} holds the others up: it is busy {found.seconds:.2f} s of each step, "
                f"its peers {found.others:.2f} s; look at that host's load, clocks and disks")
