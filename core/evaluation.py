"""Loss and perplexity of a model on a validation set, the same under every layout."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..data.batch import Batch, stack
from ..data.dataset import ValidationSet
from ..parallel.context import LayerGroups
from .inputs import MicroBatch, micro_batch
from .loss import LossModel
from .relay import Pipeline


@dataclass(frozen=True)
class EvaluationResult:
    """Mean over the unmasked tokens, in nats, and its exponential."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate(model: LossModel | Pipeline, validation: ValidationSet, *, micro_size: int, samples: int, data_group: dist.ProcessGroup,
             document_mask: bool, device: torch.device, progress: Callable[[int, int], None] | None = None) -> EvaluationResult:
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
        progress: told the forward passes done and their number.
    """
    count = min(samples, len(validation)) if samples else len(validation)
    groups = model.groups
    cp = groups.context.size()
    batches = list(shares(count, micro_size=micro_size, rank=data_group.rank() // cp, size=data_group.size() // cp))

    def micro(number: int) -> MicroBatch:
        return _micro(validation, batches[number], micro_size=micro_size, document_mask=document_mask, device=device, groups=groups)

    sums = model.loss_sums(len(batches), micro, None if progress is None else lambda done: progress(done, len(batches)))
    dist.all_reduce(sums, group=data_group)
    tokens = int(sums[1])
    return EvaluationResult(loss=float(sums[0]) / max(tokens, 1), tokens=tokens)


def shares(count: int, *, micro_size: int, rank: int, size: int) -> Iterator[Sequence[int]]:
    """The window numbers of one rank for each forward pass; the last may be short, or empty on some ranks."""
    for start in range(0, count, micro_size * size):
        first = start + rank * micro_size
        yield range(min(first, count), min(first + micro_size, count))


def _micro(validation: ValidationSet, indices: Sequence[int], *, micro_size: int, document_mask: bool, device: torch.device,
           groups: LayerGroups) -> MicroBatch:
    """One forward pass, filled up with a masked first window where the rank has fewer samples."""
    chosen = [validation.sample(i) for i in indices]
    filler = [validation.sample(0)] * (micro_size - len(chosen))
    batch: Batch = stack([*chosen, *filler])
    batch.loss_mask_BS[len(chosen):] = 0
    return micro_batch(batch, step=0, document_mask=document_mask, device=device, groups=groups)
