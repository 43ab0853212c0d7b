"""Activation recomputation: trade time for memory in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

POLICIES = ("none", "selective", "full")


def recompute(function: Callable[..., Tensor], policy: str, *arguments: Any) -> Tensor:
    """`function(*arguments)`, keeping for the backward pass only what the policy says.

    Args:
        function: a module or function without randomness of torch's generators (ours is a function of coordinates, so no generator
            state is saved), and without side effects.
        policy: none: keep all; full: keep the arguments; selective: keep what matrix products, attention and collectives gave, and
            recompute the cheap rest (norms, activations, dropout), after Korthikanti et al. 2022, "Reducing activation recomputation".
        arguments: passed on.

    Raises:
        ValueError: no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"train.recompute={policy!r} is unknown; choose from {POLICIES}")
    if policy == "none" or not torch.is_grad_enabled():
        return function(*arguments)
    if policy == "full":
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=_selective_contexts)


def recomputing() -> bool:
    """Whether this forward pass repeats one: whatever runs inside of a backward pass does. What counts or records must not do it again."""
    return torch._C._current_graph_task_id() != -1


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_kept_operators())


def _kept_operators() -> list[Any]:
    """Products of activations with weights, fused attention, and collectives; not `bmm`, whose result is the S x S score matrix."""
    aten = torch.ops.aten
    names = ("mm", "addmm", "linear", "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
             "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
             "_scaled_dot_product_fused_attention_overrideable")
    functional = torch.ops._c10d_functional
    kept = [getattr(aten, name).default for name in names if hasattr(aten, name)]
    return [*kept, functional.all_reduce.default, functional.all_gather_into_tensor.default, functional.reduce_scatter_tensor.default,
            functional.all_to_all_single.default]
