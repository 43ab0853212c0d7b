"""Runs one function on the ranks of a layout, for commands that read a checkpoint: in this process, on ranks forked from it, or on ranks
that torchrun, srun, mpirun or deepspeed started."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..conf.commands_schema import LocalRanksConfig
from ..conf.schema import LayoutConfig
from ..core.inference_layout import needed_ranks
from .environment import Environment, FrontEnd, read_environment
from .listener import with_listener

if TYPE_CHECKING:
    from ..core.rendezvous import Device

Result = TypeVar("Result")
Work = Callable[["Device"], Result]


def on_ranks(layout: LayoutConfig, cluster: LocalRanksConfig, work: Work[Result]) -> Result | None:
    """`work(device)` on every rank, torch.distributed being joined; the result of rank 0.

    One process stays one process: no fork, no port. Several are forked from this one, which has imported torch for all of them; rank 0
    prints straight to this process's standard output.

    Args:
        layout: the degrees.
        cluster: how many ranks to start, where none was started from outside.
        work: the same on every rank; only rank 0 may print. Its result must pickle.

    Returns:
        None on a rank other than 0 that was started from outside.
    """
    here = read_environment(os.environ)
    if here.front_end is not FrontEnd.python:
        return _joined(here, work)
    ranks = cluster.ranks_per_node or needed_ranks(layout)
    if ranks == 1:
        from ..core.rendezvous import alone, rank_device

        with alone():
            return work(rank_device(0, 1))
    return _forked(ranks, work)


def _forked(ranks: int, work: Work[Result]) -> Result:
    from ..core import inference  # noqa: F401  (imports what the ranks use, once for all of them)
    from ..core.forked_ranks import RankError, run_ranks
    from ..core.rendezvous import backend_of, rank_device

    def one_rank(rank: int) -> Any:
        try:
            found = work(rank_device(rank, ranks))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
            raise
        return found if rank == 0 else None

    try:
        found: Result = run_ranks(one_rank, ranks, timeout=None, backend=backend_of(ranks))[0]
    except RankError as error:
        if error.cause.startswith(BrokenPipeError.__name__):
            raise BrokenPipeError from error  # whoever reads what rank 0 prints has gone, as `head` does: no error to report
        raise
    return found


def _joined(here: Environment, work: Work[Result]) -> Result | None:
    here = with_listener(here)
    from ..core.rendezvous import joined, rank_device
    from .gathering import venue_of

    os.environ.update(here.variables())
    with joined(rank=here.rank, world_size=here.world_size, local_ranks=here.local_world_size, venue=venue_of(here)):
        found = work(rank_device(here.local_rank, here.local_world_size))
    return found if here.rank == 0 else None
