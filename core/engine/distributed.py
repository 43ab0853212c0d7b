"""Starts and ends torch.distributed, through DeepSpeed."""

import os
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist

from ..errors import PeerError, PortError
from .build import quiet_deepspeed

GROUP_TIMEOUT = timedelta(minutes=30)  # one rank may verify a large corpus while the others wait
MARKS_OF_A_LOST_PEER = ("gloo", "Connection", "connection", "recvBytes", "sendBytes", "NCCL", "Broken pipe", "Timed out", "timed out")


def start_distributed(*, rank: int, world_size: int, local_rank: int, master_address: str, master_port: int,
                      deterministic: bool = False) -> torch.device:
    """Joins the process group; one process is a group of one.

    Args:
        rank, world_size, local_rank: this process's place.
        master_address, master_port: where rank 0 listens.
        deterministic: allow only deterministic kernels.

    Returns:
        The device of this rank.

    Raises:
        PortError: the port is taken, or not all ranks came.
    """
    quiet_deepspeed()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
        torch.use_deterministic_algorithms(True)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False, rank=rank, world_size=world_size,
            init_method=f"tcp://{master_address}:{master_port}", timeout=GROUP_TIMEOUT,
        )
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PortError(f"no rendezvous of {world_size} ranks at {master_address}:{master_port}: {first_line}",
                        do="see that all ranks start and that the port is free, or choose another MASTER_PORT") from error
    return device


def stop_distributed() -> None:
    """Leaves the process group, so that the sockets close and no thread lives on."""
    if dist.is_initialized():
        dist.destroy_process_group()


def as_peer_error(error: RuntimeError) -> PeerError | None:
    """The error as the loss of a peer, if that is what torch.distributed means by it."""
    text = str(error)
    if isinstance(error, dist.DistError) or any(mark in text for mark in MARKS_OF_A_LOST_PEER):
        return PeerError(f"a peer was lost: {text.splitlines()[0][:200]}", do="look at the other ranks' logs for the first cause")
    return None
