"""Import this where ranks are forked that use DeepSpeed: what `deepspeed.initialize` imports late is then imported once, in the parent."""

import deepspeed  # noqa: F401
import torch._dynamo
import torch._inductor.compile_fx
import torch.distributed.fsdp  # noqa: F401
import torch.testing._internal  # noqa: F401
from deepspeed.accelerator import get_accelerator
from hexareme.core.engine.build import quiet_deepspeed

quiet_deepspeed()
# torch computes fp16 on every processor, if slowly; DeepSpeed refuses those without avx512_fp16, and the tests must run there too.
type(get_accelerator()).is_fp16_supported = lambda self: True
