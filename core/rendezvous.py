"""torch.distributed for commands that do not train: one process alone, or ranks that something outside started. No DeepSpeed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from .errors import PortError
from .meeting import GROUP_TIMEOUT, Patience, Venue, meet, own_card

Device = torch.device
MEETING_SECONDS = 120.0  # for the slowest host to import torch


def gpu_for_each(ranks: int) -> bool:
    """Whether this machine has a GPU for each of its ranks; ranks that would have to share one use the processor instead."""
    return torch.cuda.device_count() >= ranks


def backend_of(local_ranks: int) -> str:
    """The backend for so many ranks of one machine."""
    return "cpu:gloo,cuda:nccl" if gpu_for_each(local_ranks) else "gloo"


def rank_device(local_rank: int, local_ranks: int) -> torch.device:
    """The device of one rank of this machine."""
    return torch.device("cuda", local_rank) if gpu_for_each(local_ranks) else torch.device("cpu")


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this one process, without a port."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def joined(*, rank: int, world_size: int, local_ranks: int, venue: Venue) -> Iterator[None]:
    """The process group of ranks that were started from outside.

    Args:
        rank, world_size: this process's place.
        local_ranks: ranks of this machine.
        venue: where they meet.

    Raises:
        MissingRankError: not all ranks came.
        PortError: one of them is none of this command.
    """
    met = meet(own_card(rank, world_size), venue, config={}, token=str, patience=Patience(MEETING_SECONDS))
    try:
        dist.init_process_group(backend_of(local_ranks), store=met.store, rank=rank, world_size=world_size, timeout=GROUP_TIMEOUT)
    except RuntimeError as error:
        raise PortError(f"{world_size} ranks met, but do not reach each other: {str(error).splitlines()[0]}",
                        do="see that host names resolve to addresses that other hosts reach") from error
    try:
        yield
    finally:
        dist.destroy_process_group()
