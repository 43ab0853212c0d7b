"""What one rank itself computes in a step, watched for numbers that are not finite, before they meet those of the other ranks.

Once gradients are summed over the data axis, every rank holds the same NaN and none can be blamed. So each gradient, and the hidden states
between the stages of a pipeline, leave their sum behind, one number that is not finite if one of its terms is not. Nobody looks at these
numbers, and no device waits for one, until a step turns out to be unhealthy; only whether a gradient was finite travels with the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen:
    """Where on this rank a step first went wrong; the fields of what was finite are empty.

    Args:
        hidden_stage: lowest stage of this rank whose outgoing hidden states were not finite.
        loss: whether a loss was not.
        gradient: the parameter whose gradient was not, the first in the order of the backward pass.
        gradient_stage: highest stage of this rank with such a gradient.
        micro_batches: those in which it was seen, counted from 0; empty where that is not known.
    """

    hidden_stage: int | None = None
    loss: bool = False
    gradient: str = ""
    gradient_stage: int | None = None
    micro_batches: tuple[int, ...] = ()


class Sentinel:
    """The sums of one step's numbers on one rank."""

    def __init__(self) -> None:
        self._hidden: list[tuple[int, int, Tensor]] = []  # stage, micro-batch, sum
        self._losses: list[tuple[int, Tensor]] = []
        self._gradients: list[tuple[int, int, str, Tensor]] = []  # stage, micro-batch (-1: of all), parameter, sum
        self._micro_batch = 0

    def watch(self, name: str, parameter: nn.Parameter) -> None:
        """Note every gradient of a parameter as autograd gives it, before DeepSpeed reduces it."""
        parameter.register_hook(lambda gradient: self.gradient(0, self._micro_batch, name, gradient))

    def begin(self) -> None:
        """A step begins."""
        self._hidden.clear()
        self._losses.clear()
        self._gradients.clear()

    def micro_batch(self, number: int) -> None:
        """The backward pass that comes is this micro-batch's."""
        self._micro_batch = number

    def hidden(self, stage: int, micro_batch: int, hidden_BsH: Tensor) -> None:
        """Hidden states leave a stage."""
        self._hidden.append((stage, micro_batch, hidden_BsH.detach().sum(dtype=torch.float32)))

    def loss(self, micro_batch: int, loss_sum: Tensor) -> None:
        """A micro-batch's loss, 0-d."""
        self._losses.append((micro_batch, loss_sum.detach()))

    def gradient(self, stage: int, micro_batch: int, name: str, gradient: Tensor) -> None:
        """A parameter's gradient; -1 for the sum over all micro-batches."""
        self._gradients.append((stage, micro_batch, name, gradient.detach().sum(dtype=torch.float32)))

    def bad_gradient(self, device: torch.device) -> Tensor:
        """1 where a gradient of this rank is not finite, otherwise 0; 0-d fp64, for the step's reduction."""
        if not self._gradients:
            return torch.zeros((), dtype=torch.float64, device=device)
        return torch.stack([each[-1] for each in self._gradients]).isfinite().all().logical_not().double()

    def losses(self) -> list[tuple[int, float]]:
        """Micro-batch and summed loss of those that this rank computed."""
        return [(number, float(loss)) for number, loss in self._losses]

    def seen(self) -> Seen:
        """What was not finite on this rank; waits for the device."""
        hidden = [(stage, number) for (stage, number, _), bad in zip(self._hidden, _bad(self._hidden), strict=True) if bad]
        losses = [number for (number, _), bad in zip(self._losses, _bad(self._losses), strict=True) if bad]
        gradients = [each[:3] for each, bad in zip(self._gradients, _bad(self._gradients), strict=True) if bad]
        stage = max((stage for stage, _, _ in gradients), default=None)
        numbers = {number for _, number in hidden} or set(losses) or {number for _, number, _ in gradients if number >= 0}
        return Seen(hidden_stage=min((stage for stage, _ in hidden), default=None), loss=bool(losses),
                    gradient=next((name for at, _, name in gradients if at == stage), ""), gradient_stage=stage,
                    micro_batches=tuple(sorted(numbers)))


def _bad(notes: Sequence[tuple[object, ...]]) -> list[bool]:
    """Which of the sums, each the last of its tuple, are not finite."""
    sums = [note[-1] for note in notes]
    return [not finite for finite in torch.stack(sums).isfinite().tolist()] if sums else []  # type: ignore[arg-type]
