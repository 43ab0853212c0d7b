"""A model cut into pipeline stages, forward only: for validation and generation, under every placement.

Shapes: B micro-batch, S sequence, s this rank's shard of it, H hidden, R rows (prompts), V vocabulary, v this rank's columns of it.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..conf.schema import ModelConfig
from ..parallel.context import LayerGroups
from ..parallel.stages import Placement
from .inputs import MicroBatch
from .loss import token_losses
from .model.cache import KeyValueCache
from .model.input import ModelInput
from .model.precision import autocast
from .model.transformer import Transformer


class Pipeline(nn.Module):
    """This rank's stages of a model, and the way from each stage to the next. Collective over `group`, as every method is.

    Micro-batch m passes stage k in tick m + k, on whatever rank that stage lies; between two ticks all hidden states move at once. So all
    stages work at the same time, nothing runs ahead, and no order of the ranks can lock.

    Args:
        stages: this rank's slices, ascending.
        placement: of all stages over the pipeline.
        group: the ranks of the pipeline.
        precision: train.precision; the stages enter autocast by themselves.
    """

    def __init__(self, stages: Sequence[Transformer], placement: Placement, group: dist.ProcessGroup, *, precision: str = "fp32") -> None:
        super().__init__()
        self.stages: Iterable[Transformer] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.placement, self.group, self.precision = placement, group, precision
        self.config: ModelConfig = stages[0].config
        self.groups: LayerGroups = stages[0].groups
        held = [stage.stage.index for stage in stages]
        assert held == placement.held_by(group.rank()), f"rank {group.rank()} of {placement} was given stages {held}"
        self.train(stages[0].training)

    @classmethod
    def of_whole(cls, model: Transformer) -> "Pipeline":
        """A model that is not cut, as a pipeline of one stage.

        Raises:
            ValueError: the sequence is cut over ranks, so there is no group of one to stand for the pipeline.
        """
        if model.groups.context.size() > 1:
            raise ValueError("one sequence on several ranks cannot be continued; set parallel.cp=1")
        return cls([model], Placement(1), model.groups.context)

    @property
    def device(self) -> torch.device:
        """Where this rank's stages lie."""
        return self._example.device

    @property
    def _example(self) -> Tensor:
        return next(self.parameters())

    def caches(self, capacity: int) -> list[KeyValueCache]:
        """Room for the keys and values of so many tokens, for each stage of this rank."""
        return [KeyValueCache(capacity) for _ in self.stages]

    def forward(self, batch: ModelInput, caches: Sequence[KeyValueCache] | None = None) -> Tensor | None:
        """Logits_BSv on the ranks of the last stage, None on the others."""
        found: list[Tensor] = []
        self._relay(1, lambda _: batch, lambda _, logits_BSv: found.append(logits_BSv), caches)
        return found[0] if found else None

    def loss_sums(self, count: int, micro_batch: Callable[[int], MicroBatch], progress: Callable[[int], None] | None = None) -> Tensor:
        """Sum of the cross entropies and number of the unmasked tokens of this rank's data, [2] fp64, alike along the pipeline.

        Args:
            count: micro-batches, the same on every rank of the pipeline.
            micro_batch: the one of a number; a rank asks for it once for each of its stages.
            progress: told how many have passed this rank.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        last = list(self.stages)[-1]

        def finish(number: int, logits_BSv: Tensor) -> None:
            micro = micro_batch(number)
            loss_sum = (token_losses(logits_BSv, micro.targets_BS, last) * micro.loss_mask_BS).sum()
            sums.add_(torch.stack([loss_sum.double(), micro.loss_mask_BS.sum(dtype=torch.float64)]))

        self._relay(count, lambda number: micro_batch(number).inputs, finish, None, progress)
        if self.group.size() > 1:
            dist.all_reduce(sums, group=self.group)
        return sums

    def told_to_all(self, ids_R: Tensor | None, rows: int) -> Tensor:
        """The ids that the ranks of the last stage chose, on every rank of the pipeline: [R] int64."""
        told_R = torch.zeros(rows, dtype=torch.int64, device=self.device) if ids_R is None else ids_R.to(self.device)
        if self.group.size() > 1:
            dist.broadcast(told_R, group=self.group, group_src=self.placement.owner(self.placement.num_stages - 1))
        return told_R

    def _relay(self, count: int, inputs: Callable[[int], ModelInput], finish: Callable[[int, Tensor], None],
               caches: Sequence[KeyValueCache] | None, progress: Callable[[int], None] | None = None) -> None:
        """Sends `count` micro-batches through all stages; `finish` gets the number and the logits of each, on the last stage's rank."""
        leaving: dict[int, Tensor] = {}  # by the stage that gave it
        stages = list(self.stages)
        for tick in range(count + self.placement.num_stages - 1):
            arrived = self._exchange(tick, count, leaving, inputs)
            leaving = {}
            for place, transformer in enumerate(stages):
                stage = transformer.stage
                number = tick - stage.index
                if not 0 <= number < count:
                    continue
                with autocast(self.precision, self.device.type):
                    out = transformer(inputs(number), None if caches is None else caches[place], arrived.get(stage.index))
                if stage.last:
                    finish(number, out)
                else:
                    leaving[stage.index] = out
                if progress is not None and transformer is stages[-1]:
                    progress(number + 1)

    def _exchange(self, tick: int, count: int, leaving: dict[int, Tensor], inputs: Callable[[int], ModelInput]) -> dict[int, Tensor]:
        """Moves all hidden states one stage on; returns those for this rank's stages, by stage."""
        me, owner = self.group.rank(), self.placement.owner
        arrived: dict[int, Tensor] = {}
        operations = []
        for stage in range(1, self.placement.num_stages):  # in one order on both sides: what two ranks exchange is matched by order
            if not 0 <= tick - stage < count:
                continue
            source, target = owner(stage - 1), owner(stage)
            if source == me == target:
                arrived[stage] = leaving[stage - 1]
            elif source == me:
                operations.append(dist.P2POp(dist.isend, leaving[stage - 1].contiguous(), group=self.group, group_peer=target))
            elif target == me:
                arrived[stage] = self._room(inputs(tick - stage))
                operations.append(dist.P2POp(dist.irecv, arrived[stage], group=self.group, group_peer=source))
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()
        return arrived

    def _room(self, batch: ModelInput) -> Tensor:
        """Where the hidden states of a micro-batch can arrive."""
        B, S = batch.tokens_BS.shape
        s = S // self.groups.tensor.size() if self.groups.sequence_parallel else S
        return self._example.new_empty(B, s, self.config.hidden_size)
