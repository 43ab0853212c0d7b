"""Starts and ends torch.distributed, with DeepSpeed on top of it."""

import os

import deepspeed
import torch
import torch.distributed as dist

from ..errors import PeerError, PortError
from ..meeting import GROUP_TIMEOUT
from .build import quiet_deepspeed

MARKS_OF_A_LOST_PEER = ("gloo", "Connection", "connection", "recvBytes", "sendBytes", "NCCL", "Broken pipe", "Timed out", "timed out")


def start_distributed(*, rank: int, world_size: int, local_rank: int, store: dist.Store, deterministic: bool = False) -> torch.device:
    """Joins the process group; one process is a group of one.

    Args:
        rank, world_size, local_rank: this process's place.
        store: of the meeting; all ranks have come.
        deterministic: allow only deterministic kernels.

    Returns:
        The device of this rank.

    Raises:
        PeerError: a rank was lost after the meeting.
        PortError: the hosts do not reach each other.
    """
    quiet_deepspeed()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
        torch.use_deterministic_algorithms(True)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    bound = device if on_gpu and world_size > 1 else None  # as DeepSpeed does it: NCCL then connects at once, on the right GPU
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=GROUP_TIMEOUT, device_id=bound)
    except RuntimeError as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise as_peer_error(error) or PortError(f"{world_size} ranks met, but do not reach each other: {first_line}",
                                                do="see that host names resolve to addresses that other hosts reach") from error
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=GROUP_TIMEOUT)  # takes the group
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
