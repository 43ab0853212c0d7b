"""How fast this machine is, in a few seconds: matrix products, memory, and an all-reduce over its ranks."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist

CPU_SIZE, GPU_SIZE = 1024, 8192  # rows and columns of a square product: large enough for the full rate, small enough for seconds
REDUCED_BYTES = 64 << 20
ROUNDS = 5


def measure_speed(rank: int) -> dict[str, float]:
    """Rates of this rank; all ranks of the machine measure at once, as they will compute. Collective.

    Args:
        rank: of this process; torch.distributed is started, with NCCL where there are GPUs.

    Returns:
        `matmul_flops` a second (bf16 on a GPU, fp32 on a CPU), `copy_bytes` a second, `all_reduce_bytes` a second: what each rank sends
        at least, 2 (n - 1) / n of the buffer (NCCL's "bus bandwidth"); 0 for one rank.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if gpu else torch.device("cpu")
    size, dtype = (GPU_SIZE, torch.bfloat16) if gpu else (CPU_SIZE, torch.float32)
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    buffer = torch.ones(REDUCED_BYTES // 4, device=device)
    other, world = torch.empty_like(buffer), dist.get_world_size()
    found = {"matmul_flops": 2.0 * size**3 / _seconds(lambda: torch.mm(a, b), device),
             "copy_bytes": 2.0 * REDUCED_BYTES / _seconds(lambda: other.copy_(buffer), device), "all_reduce_bytes": 0.0}
    if world > 1:
        taken = _seconds(lambda: dist.all_reduce(buffer), device)
        found["all_reduce_bytes"] = 2.0 * (world - 1) / world * REDUCED_BYTES / taken
    return found


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """The median of some rounds, the first one left out."""
    taken = []
    for _ in range(ROUNDS + 1):
        _settle(device)
        began = time.perf_counter()
        action()
        _settle(device)
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.get_world_size() > 1:
        dist.barrier()
