"""What lies between the two products of an MLP and of an expert. Shapes: f features."""

import torch.nn.functional as F
from torch import Tensor

from ...conf.schema import Activation


def feature_parts(width: int, activation: Activation) -> tuple[int, ...]:
    """Sizes of the parts that `up` has: with swiglu the gate's features, then those it gates."""
    return (width,) * (2 if activation == Activation.swiglu else 1)


def activated(x: Tensor, activation: Activation) -> Tensor:
    """GELU (Hendrycks and Gimpel 2016), or with swiglu (Shazeer 2020) [..., 2 f] -> [..., f]: silu(first half) * second half."""
    if activation == Activation.swiglu:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value
    return F.gelu(x, approximate="tanh" if activation == Activation.gelu_tanh else "none")
