"""Bytes that each rank sends in a step, counted at the c10d call, beside the theory."""

from collections.abc import Iterable, Mapping

from ...conf.schema import Config, Precision
from ...parallel.traffic import METADATA, Traffic, TrafficRecorder, axis_labels, by_axis
from ..layer_traffic import layer_traffic
from ..traffic import Sent, merged, padded, zero_traffic
from .running import Running, start
from .table import Row

METADATA_SHARE = 0.005  # of all that is sent, at most
WARM_UP = 2  # micro-batches at least before the counted step: from them ZeRO-3 learns the order of use


def measure_bytes(rank: int, config: Config, world_size: int) -> list[Row]:
    """One step of a run with these keys: what this rank sent, and what it should have.

    Args:
        rank: of this process; torch.distributed is started.
        config: of a training run; its data is not read.
        world_size: ranks.
    """
    running = start(config, rank=rank, world_size=world_size)
    first = -(-WARM_UP // running.plan.accumulation_steps)
    for step in range(first):
        running.train_step(step)
    with TrafficRecorder() as recorder:
        running.train_step(first)
    labels = axis_labels(running.context)
    measured = by_axis(recorder.calls, labels)
    return [*rows(measured, theory(running), labels.values()), *zero_1_bound(running, measured)]


def zero_1_bound(running: Running, measured: Mapping[tuple[str, str], Traffic]) -> list[Row]:
    """ZeRO-1 sends at most one reduction of the gradients and one gathering of the parameters a step: 2 P (n - 1) / n elements."""
    if running.config.parallel.zero != 1:
        return []
    width = reduce_bytes(running.config) + 4
    most = sum(width * padded(group) * (group.n - 1) / group.n for group in running.replicas())
    kinds = {(axis, kind) for axis, kind in theory(running) if axis in ("data", "expert_data")}
    sent = sum(traffic.sent for (label, kind), traffic in measured.items() if any((axis, kind) in kinds for axis in label.split("=")))
    return [Row("ZeRO-1", "at most 2 P (n-1) / n", sent, most, bound=True)] if most else []


def reduce_bytes(config: Config) -> int:
    """Of one element of a gradient on its way."""
    return 4 if config.train.reduce_precision is Precision.fp32 else 2


def theory(running: Running) -> Sent:
    """What this rank sends in a step, by axis and kind."""
    config = running.config
    # the schedule of a pipeline accumulates by itself, and ZeRO-1 reduces once anyway
    parameters = zero_traffic(config.parallel.zero, running.replicas(), running.switches(),
                              accumulation=running.plan.accumulation_steps, reduce_bytes=reduce_bytes(config))
    return merged([parameters, layer_traffic(config, micro_batches=running.plan.accumulation_steps,
                                             pipeline_rank=running.context.pipeline.rank())])


def rows(measured: Mapping[tuple[str, str], Traffic], theory: Sent, labels: Iterable[str]) -> list[Row]:
    """Both side by side; the theory of axes that share a group is added up.

    What the theory does not name goes under `metadata`, with all calls of a few numbers (losses, norms, counts, routing statistics), as
    long as it is no more than 0.5 % of what is sent.
    """
    label_of = {axis: label for label in labels for axis in label.split("=")}
    expected = merged([{(label_of[axis], kind): sent} for (axis, kind), sent in theory.items()])
    total = sum(traffic.sent for traffic in measured.values())
    unnamed = [key for key in measured if key not in expected]
    if sum(measured[key].sent for key in unnamed) > METADATA_SHARE * total:
        unnamed = [(METADATA, "all")] if (METADATA, "all") in measured else []  # too much for metadata: something that is not understood
    found = [_row(key, measured.get(key, Traffic(0, 0, 0.0)), expected.get(key, 0.0)) for key in sorted({*measured, *expected})
             if key not in unnamed]
    small, calls = sum(measured[key].sent for key in unnamed), sum(measured[key].calls for key in unnamed)
    return [*found, Row(METADATA, "at most 0.5 % of all", small, METADATA_SHARE * total, calls, bound=True),
            Row("all", "bytes sent", total, sum(expected.values()), sum(traffic.calls for traffic in measured.values()))]


def _row(key: tuple[str, str], traffic: Traffic, expected: float) -> Row:
    return Row(key[0], key[1], traffic.sent, expected, traffic.calls)
