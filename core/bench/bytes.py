"""Bytes that each rank sends in a step, counted at the c10d call, beside the theory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...conf.schema import Config, Precision
from ...parallel.partition_module import placed_parameters
from ...parallel.stages import Stage
from ...parallel.traffic import METADATA, Traffic, TrafficRecorder, axis_labels, by_axis
from ..engine.optimizer import parameter_groups
from ..engine.settings import deepspeed_settings
from ..layer_traffic import Passes, layer_traffic
from ..traffic import Replicas, Sent, ZeroSwitches, merged, zero_traffic
from .running import Running, start

WARM_UP = 1  # steps before the counted one: in the first, ZeRO-3 learns the order of use


@dataclass(frozen=True)
class Row:
    """One line of the table: what a rank sent over the group of some axes by one kind of call.

    Args:
        axes: that the group serves, joined by "=".
        kind: of the call.
        calls: how many.
        measured, theory: bytes that left the rank.
    """

    axes: str
    kind: str
    calls: int
    measured: float
    theory: float

    @property
    def difference(self) -> float:
        """Relative to the theory; infinite where the theory says nothing is sent."""
        return 0.0 if self.measured == self.theory else abs(self.measured - self.theory) / self.theory if self.theory else float("inf")


def measure_bytes(rank: int, config: Config, world_size: int) -> list[Row]:
    """One step of a run with these keys: what this rank sent, and what it should have.

    Args:
        rank: of this process; torch.distributed is started.
        config: of a training run; its data is not read.
        world_size: ranks.
    """
    running = start(config, rank=rank, world_size=world_size)
    for step in range(WARM_UP):
        running.train_step(step)
    with TrafficRecorder() as recorder:
        running.train_step(WARM_UP)
    labels = axis_labels(running.context)
    return rows(by_axis(recorder.calls, labels), theory(running), labels.values())


def theory(running: Running) -> Sent:
    """What this rank sends in a step, by axis and kind."""
    config = running.config
    zero = deepspeed_settings(config.train, config.parallel, micro_size=config.batch.micro_size, accumulation_steps=1,
                              dp=running.context.data.size(), pin_memory=False)["zero_optimization"]
    parameters = zero_traffic(config.parallel.zero, replicas(running), ZeroSwitches.of(zero), accumulation=running.plan.accumulation_steps,
                              reduce_bytes=4 if config.train.reduce_precision is Precision.fp32 else 2)
    passes = Passes(Stage.whole(config.model.num_layers), running.plan.accumulation_steps)
    return merged([parameters, layer_traffic(config, passes)])


def replicas(running: Running) -> list[Replicas]:
    """The rank's parameters by optimizer group."""
    placed = {id(each.parameter): each for each in placed_parameters(running.built.engine.module.transformer)}
    found = []
    for group in parameter_groups(list(placed.values()), running.config.optimizer):
        members = [placed[id(parameter)] for parameter in group["params"]]
        expert = members[0].expert
        axis = running.context.expert_data if expert else running.context.data
        sizes = tuple(prod(each.shard.local_shape) for each in members)
        found.append(Replicas("expert_data" if expert else "data", axis.size(), axis.rank(), sizes))
    return found


def rows(measured: Mapping[tuple[str, str], Traffic], theory: Sent, labels: Iterable[str]) -> list[Row]:
    """Both side by side; the theory of axes that share a group is added up."""
    label_of = {axis: label for label in labels for axis in label.split("=")}
    expected = merged([{(label_of[axis], kind): sent} for (axis, kind), sent in theory.items()])
    found = []
    for key in sorted({*measured, *expected}):
        traffic = measured.get(key, Traffic(0, 0, 0.0))
        found.append(Row(*key, traffic.calls, traffic.sent, expected.get(key, 0.0)))
    return found


def faults(found: Sequence[Row], tolerance: float) -> list[str]:
    """What is outside the tolerance: a row against its theory, or metadata against all that is sent."""
    total = sum(row.measured for row in found)
    wrong = [f"{row.axes} {row.kind}: {row.measured:.0f} bytes, not {row.theory:.0f}" for row in found
             if row.axes != METADATA and row.difference > tolerance]
    metadata = sum(row.measured for row in found if row.axes == METADATA)
    if metadata > tolerance * total:
        wrong.append(f"{METADATA}: {metadata:.0f} of {total:.0f} bytes")
    return wrong
