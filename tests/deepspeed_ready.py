"""Import this where ranks are forked that use DeepSpeed: what `deepspeed.initialize` imports late is then imported once, in the parent."""

from deepspeed.accelerator import get_accelerator
from hexareme.core.engine.warm import warm_up

warm_up()
# torch computes fp16 on every processor, if slowly; DeepSpeed refuses those without avx512_fp16, and the tests must run there too.
type(get_accelerator()).is_fp16_supported = lambda self: True
