"""What a rank runs on: its name, and the memory it has used."""

import resource

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The largest memory this rank has held: of the GPU where there is one, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB


def device_name(device: torch.device) -> str:
    """As `flops.peak_flops` knows it; `cpu` for a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
