"""The bubble of each of torch's pipeline schedules, measured on stages whose cost is known, beside a simulation of its own order.

A stage is a small linear layer that sleeps: t seconds in its forward pass, t for its input's gradient, t for its weight's. Sleeping ranks
need no core, so that more ranks than cores keep their time; and torch's autograd places the sleeps, because they are nodes of its graph.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class

from ...parallel.stages import SPLIT_BACKWARD, Placement
from ..bubble import Action, Kind, bubble_of, one_f_one_b_bubble, simulate
from .table import Row

TORCH_NAMES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved_1f1b": "Interleaved1F1B", "interleaved_zero_bubble": "InterleavedZeroBubble",
               "zbv": "ZBVZeroBubble", "dualpipev": "DualPipeV"}
Order = list[list[tuple[Action, ...]]]  # of each rank: groups of actions that are sent together
BUBBLE_ROW = "bubble"
WIDTH = 8  # of the real layer beside the sleep


@dataclass(frozen=True)
class Setup:
    """One measurement.

    Args:
        schedule: parallel.schedule.
        virtual_stages: parallel.virtual_stages.
        ranks, micro_batches: p and m.
        seconds: t.
    """

    schedule: str
    virtual_stages: int = 1
    ranks: int = 4
    micro_batches: int = 8
    seconds: float = 0.1


@dataclass(frozen=True)
class Measured:
    """What one rank saw in one step.

    Args:
        begin, end: of its first and last sleep, in seconds of the machine's monotonic clock.
        busy: seconds slept.
        sleeps: how often.
        order: the actions of every rank, as torch's schedule lists them.
    """

    begin: float
    end: float
    busy: float
    sleeps: int
    order: Order


class Clock:
    """How long a pass takes, and when passes took place."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.spans: list[tuple[float, float]] = []

    def spend(self, passes: int) -> None:
        """Sleep, and note when."""
        if passes and self.seconds:
            begin = time.monotonic()
            time.sleep(passes * self.seconds)
            self.spans.append((begin, time.monotonic()))


class _Cost(torch.autograd.Function):
    """The identity on one tensor, an activation or a parameter, that takes its time in the forward and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, clock: Clock, forward: int, backward: int) -> Tensor:
        ctx.clock, ctx.backward_passes = clock, backward
        clock.spend(forward)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.clock.spend(ctx.backward_passes)
        return gradients[0], None, None, None


class KnownStage(nn.Module):
    """A linear layer of known cost.

    Args:
        clock: of the rank.
        first: it also has an embedding, whose gradient needs that of the layer's input.
    """

    def __init__(self, clock: Clock, *, first: bool) -> None:
        super().__init__()
        self.clock = clock
        self.embedding = nn.Parameter(torch.zeros(WIDTH)) if first else None
        self.weight = nn.Parameter(torch.eye(WIDTH))

    def forward(self, x_BH: Tensor) -> Tensor:
        """[B, H] -> [B, H]."""
        if self.embedding is not None:
            x_BH = x_BH + self.embedding
        return F.linear(_Cost.apply(x_BH, self.clock, 1, 1), _Cost.apply(self.weight, self.clock, 0, 1))


def measure_bubble(rank: int, setup: Setup) -> Measured:
    """Two steps of the real schedule on this rank of the pipeline, of which the second counts.

    Args:
        rank: of this process; torch.distributed is started over the pipeline's ranks.
        setup: the measurement.
    """
    clock = Clock()
    schedule, holds_first, holds_last = build_schedule(rank, setup, clock)
    x_BH = torch.ones(setup.micro_batches, WIDTH)
    inputs = (x_BH,) if holds_first else ()
    target = x_BH if holds_last else None
    for seconds in (0.001, setup.seconds):
        clock.seconds = seconds
        clock.spans.clear()
        dist.barrier()
        schedule.step(*inputs, target=target)
    return Measured(clock.spans[0][0], clock.spans[-1][1], sum(end - begin for begin, end in clock.spans), len(clock.spans),
                    orders_of(schedule))


def bubble_rows(setup: Setup, ranks: Sequence[Measured]) -> list[Row]:
    """The bubble of one step beside its theory: the closed form where there is one, else the simulation of the schedule's own order.

    And how often the ranks slept: three passes of each micro-batch through each stage, or the bubble is that of another schedule.

    Args:
        setup: the measurement.
        ranks: what each rank saw.
    """
    makespan = max(rank.end for rank in ranks) - min(rank.begin for rank in ranks)
    measured = bubble_of(sum(rank.busy for rank in ranks), ranks=setup.ranks, makespan=makespan)
    if setup.schedule in ("gpipe", "1f1b", "interleaved_1f1b"):
        theory = one_f_one_b_bubble(setup.ranks, setup.micro_batches, setup.virtual_stages)
    else:
        theory = simulate(ranks[0].order).bubble
    stages = Placement.of(setup.schedule, pp=setup.ranks, virtual_stages=setup.virtual_stages).num_stages
    return [Row(setup.schedule, BUBBLE_ROW, measured, theory),
            Row(setup.schedule, "passes", sum(rank.sleeps for rank in ranks), 3 * setup.micro_batches * stages)]


def comparison(rows: Sequence[Row]) -> list[Row]:
    """The best schedule that splits the backward pass against 1f1b: its bubble must be at most a third."""
    bubbles = {row.where: row.measured for row in rows if row.what == BUBBLE_ROW}
    splitting = [bubble for schedule, bubble in bubbles.items() if schedule in SPLIT_BACKWARD]
    if "1f1b" not in bubbles or not splitting:
        return []
    return [Row("best zero-bubble schedule / 1f1b", "at most", min(splitting) / bubbles["1f1b"], 1 / 3, bound=True)]


def build_schedule(rank: int, setup: Setup, clock: Clock) -> tuple[Any, bool, bool]:
    """torch's schedule over this rank's stages; whether they have the first, and the last stage."""
    placement = Placement.of(setup.schedule, pp=setup.ranks, virtual_stages=setup.virtual_stages)
    held = placement.held_by(rank)
    example = torch.ones(1, WIDTH, requires_grad=True)  # torch sends gradients only of what it sees wanting one
    stages = [PipelineStage(KnownStage(clock, first=index == 0), index, placement.num_stages, torch.device("cpu"), input_args=(example,),
                            output_args=(example,)) for index in held]
    kind = get_schedule_class(TORCH_NAMES[setup.schedule])
    several = issubclass(kind, PipelineScheduleMulti)
    return (kind(stages if several else stages[0], setup.micro_batches, loss_fn=_loss, scale_grads=False), 0 in held,
            placement.num_stages - 1 in held)


def orders_of(schedule: Any) -> Order:
    """The actions of every rank, as torch's schedule lists them."""
    orders = [[_group(action) for action in order if action is not None and _group(action)]
              for _, order in sorted(schedule.pipeline_order.items())]
    return orders if isinstance(schedule, PipelineScheduleMulti) else [_numbered(order) for order in orders]


def _group(action: Any) -> tuple[Action, ...]:
    """torch's action as ours; a pair that is called overlapped is run one after the other, and sent together at its end."""
    if action.sub_actions:
        return tuple(each for part in action.sub_actions for each in _group(part))
    kinds = {"FORWARD": Kind.forward, "FULL_BACKWARD": Kind.backward, "BACKWARD_INPUT": Kind.input_gradient,
             "BACKWARD_WEIGHT": Kind.weight_gradient}
    name = action.computation_type.name
    return (Action(kinds[name], action.stage_index, action.microbatch_index),) if name in kinds else ()


def _numbered(order: Sequence[tuple[Action, ...]]) -> list[tuple[Action, ...]]:
    """The order with its micro-batches counted anew: torch 2.13 lists those of 1f1b's last rank as 1 to m, but runs 0 to m - 1."""
    seen: Counter[Kind] = Counter()
    found: list[tuple[Action, ...]] = []
    for (action,) in order:
        found.append((replace(action, micro_batch=seen[action.kind]),))
        seen[action.kind] += 1
    return found


def _loss(y_BH: Tensor, target_BH: Tensor) -> Tensor:
    return (y_BH * target_BH).sum()

