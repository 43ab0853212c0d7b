"""A sign of progress at each pass through a model or through a stage of it: micro-batches of a step, batches of an evaluation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .model.transformer import Transformer


def tick_at_passes(model: nn.Module, tick: Callable[[], None]) -> None:
    """After each forward pass of every stage in `model`, and as its backward pass begins; whatever engine or schedule makes them.

    Args:
        model: holds one Transformer or the stages of a pipeline.
        tick: the sign.
    """

    def forward(module: nn.Module, inputs: tuple[Any, ...], output: Tensor | None) -> None:
        tick()
        if isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled():
            output.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        tick()

    for module in model.modules():
        if isinstance(module, Transformer):
            module.register_forward_hook(forward)
