"""What a rank imports late, imported at once in the process that forks the ranks: they then share it."""

from .build import quiet_deepspeed


def warm_up() -> None:
    """Imports what `deepspeed.initialize` and the first backward pass would import in each rank, seconds each time."""
    import torch._dynamo
    import torch._inductor.compile_fx
    import torch.distributed.fsdp
    import torch.testing._internal  # noqa: F401

    quiet_deepspeed()
