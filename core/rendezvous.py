"""torch.distributed for commands that do not train: one process alone, or ranks that something outside started. No DeepSpeed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from .errors import PortError

Device = torch.device
GROUP_TIMEOUT = timedelta(minutes=30)  # a rank may wait for a reader that is slow to take what is printed


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
def joined(*, rank: int, world_size: int, local_ranks: int, address: str, port: int) -> Iterator[None]:
    """The process group of ranks that were started from outside.

    Args:
        rank, world_size: this process's place.
        local_ranks: ranks of this machine.
        address, port: where rank 0 listens.

    Raises:
        PortError: not all ranks came, or the port is taken.
    """
    try:
        dist.init_process_group(backend_of(local_ranks), init_method=f"tcp://{address}:{port}", rank=rank, world_size=world_size,
                                timeout=GROUP_TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PortError(f"no rendezvous of {world_size} ranks at {address}:{port}: {first_line}",
                        do="see that all ranks start and that the port is free, or choose another MASTER_PORT") from error
    try:
        yield
    finally:
        dist.destroy_process_group()
