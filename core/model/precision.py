"""The precision of matrix products."""

from contextlib import AbstractContextManager, nullcontext

import torch

from ...conf.schema import Precision

_DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def autocast(precision: str, device_type: str) -> AbstractContextManager[object]:
    """Matrix products in bf16 or fp16, norms, softmax and loss in fp32; nothing for fp32.

    Weights are cast at every use (no cache): a cached copy would outlive the change of the weight that a ZeRO engine makes behind it.
    """
    precision = Precision(precision)
    if precision == Precision.fp32:
        return nullcontext()
    return torch.autocast(device_type, dtype=_DTYPES[precision], cache_enabled=False)
