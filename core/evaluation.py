"""Loss and perplexity of a model on a validation set, the same under every layout."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..parallel.context import LayerGroups
from .inputs import MicroBatch, micro_batch
from .loss import LossModel
from .relay import Pipeline
from .training_data import AnyValidationSet

PASSES = 16  # forward passes between two questions whether to stop, for each stage: a pipeline fills and drains between them


class EvaluationStoppedError(Exception):
    """It was cut short, on all ranks at the same place."""


@dataclass(frozen=True)
class EvaluationResult:
    """Mean over the unmasked tokens, in nats, and its exponential."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Who looks on at an evaluation.

    Args:
        progress: told the forward passes done and their number.
        stop: asked now and then, by all ranks together; its answer must be the same on all. None: it runs to its end.
    """

    progress: Callable[[int, int], None] | None = None
    stop: Callable[[], bool] | None = None


NOBODY = Monitor()


@torch.no_grad()
def evaluate(model: LossModel | Pipeline, validation: AnyValidationSet, *, micro_size: int, samples: int, data_group: dist.ProcessGroup,
             document_mask: bool, device: torch.device, monitor: Monitor = NOBODY) -> EvaluationResult:
    """Every rank of the data axis takes its share; all do the same number of forward passes, because ZeRO-3's are collective.

    The ranks of one context group take the same windows, and each its own tokens of them.

    Args:
        model: in evaluation mode; of a pipeline, every rank evaluates its stages.
        validation: windows in order.
        micro_size: samples of one forward pass.
        samples: the first so many windows; 0: all.
        data_group: the data axis, the context axis in it.
        document_mask: as in training.
        device: of the model.
        monitor: who looks on.

    Raises:
        EvaluationStoppedError: the monitor's `stop` said so.
    """
    count = min(samples, len(validation)) if samples else len(validation)
    groups = model.groups
    cp = groups.context.size()
    batches = list(shares(count, micro_size=micro_size, rank=data_group.rank() // cp, size=data_group.size() // cp))

    def micro(number: int) -> MicroBatch:
        return _micro(validation, batches[number], micro_size=micro_size, document_mask=document_mask, device=device, groups=groups)

    sums = torch.zeros(2, dtype=torch.float64, device=device)
    part = len(batches) if monitor.stop is None else PASSES * (model.placement.num_stages if isinstance(model, Pipeline) else 1)
    for first in range(0, len(batches), max(part, 1)):
        if first and monitor.stop is not None and monitor.stop():
            raise EvaluationStoppedError
        sums += _part(model, range(first, min(first + part, len(batches))), micro, monitor.progress, of=len(batches))
    dist.all_reduce(sums, group=data_group)
    tokens = int(sums[1])
    return EvaluationResult(loss=float(sums[0]) / max(tokens, 1), tokens=tokens)


def _part(model: LossModel | Pipeline, numbers: range, micro: Callable[[int], MicroBatch],
          progress: Callable[[int, int], None] | None, *, of: int) -> Tensor:
    told = None if progress is None else lambda done: progress(numbers.start + done, of)
    return model.loss_sums(len(numbers), lambda number: micro(numbers[number]), told)


def shares(count: int, *, micro_size: int, rank: int, size: int) -> Iterator[Sequence[int]]:
    """The window numbers of one rank for each forward pass; the last may be short, or empty on some ranks."""
    for start in range(0, count, micro_size * size):
        first = start + rank * micro_size
        yield range(min(first, count), min(first + micro_size, count))


def _micro(validation: AnyValidationSet, indices: Sequence[int], *, micro_size: int, document_mask: bool, device: torch.device,
           groups: LayerGroups) -> MicroBatch:
    """One forward pass, filled up with a masked first window where the rank has fewer samples."""
    batch = validation.batch([*indices, *[0] * (micro_size - len(indices))])
    batch.loss_mask_BS[len(indices):] = 0
    return micro_batch(batch, step=0, document_mask=document_mask, device=device, groups=groups)
