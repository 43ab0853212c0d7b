"""Bytes that one block's MLP, or its experts, keep for the backward pass, from what enters their first product on. Pure: imports no torch.

Letters as in `Shapes`; R rows that pass experts: k for each token, which balanced routers spread evenly; E experts.
"""

from ..expert_rules import expert_width
from .shapes import FP32, INT64, Shapes


def dense(sizes: Shapes, width: int) -> int:
    """Of an MLP so many features wide on this rank, without recomputation: `up`, its activation, and under swiglu their product."""
    return sizes.T * width * (4 if sizes.up_parts == 2 else 2) * sizes.product


def dense_weights(sizes: Shapes, width: int) -> int:
    """Copies of its weights in the products' precision."""
    return width * (sizes.up_parts + 1) * sizes.H * 2 if sizes.casts else 0


def dense_selected(sizes: Shapes, width: int) -> int:
    """Of it, what selective recomputation keeps: both products, and what collectives gave."""
    return (sizes.T * width * sizes.up_parts + sizes.T * sizes.H) * sizes.product + collectives(sizes)


def collectives(sizes: Shapes) -> int:
    """Results that entering and leaving a tensor-parallel region give."""
    if sizes.config.parallel.tp == 1:
        return 0
    entered = sizes.T * sizes.H if sizes.sequence_parallel else 0
    return (entered + sizes.residual) * sizes.product


def experts(sizes: Shapes) -> int:
    """Of the experts and their router, without recomputation."""
    model = sizes.config.model
    E, k, e = model.num_experts, model.experts_per_token, sizes.product
    R, width = sizes.T * k, expert_width(model) // sizes.config.parallel.tp
    rows = R * sizes.H * (2 * e + FP32 + e)  # into `up`, out of `down`, sorted back in the tokens' order; and in fp32, to be weighted
    inside = R * width * (4 if sizes.up_parts == 2 else 2) * e
    router = sizes.T * (2 * E * FP32 + 2 * k * FP32 + k * INT64 + 2 * FP32)
    numbers = R * INT64 * (4 if model.bias else 2)
    return rows + inside + router + numbers


def expert_weights(sizes: Shapes) -> int:
    """Copies of the experts' weights in the products' precision."""
    model, parallel = sizes.config.model, sizes.config.parallel
    here = model.num_experts // parallel.ep * expert_width(model) // parallel.tp
    return here * (sizes.up_parts + 1) * sizes.H * 2 if sizes.casts else 0


def experts_selected(sizes: Shapes) -> int:
    """Of the experts and their router, what selective recomputation keeps."""
    model, parallel = sizes.config.model, sizes.config.parallel
    R, width = sizes.T * model.experts_per_token, expert_width(model) // parallel.tp
    rows = R * width * sizes.up_parts + R * sizes.H * (3 if parallel.ep > 1 else 1)
    logits = sizes.residual // sizes.H * model.num_experts + (sizes.T * model.num_experts if sizes.sequence_parallel else 0)
    return rows * sizes.product + logits * FP32 + collectives(sizes)
