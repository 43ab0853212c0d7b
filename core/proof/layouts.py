"""Which layouts a config is proven on: itself, and every smaller one. Pure."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from ...conf.schema import Config, Offload, OptimizerName, Precision, Recompute
from ..combine import problems


class Expected(StrEnum):
    """What must become of a layout: most may be refused, with the reason, but not what the gate stands for."""

    either = "either"
    runs = "runs"
    refused = "refused"


@dataclass(frozen=True)
class Case:
    """One layout of one config.

    Args:
        name: the layout in words.
        config: scaled down, with the layout's degrees.
        processes: ranks.
        refused: why it cannot run; empty: it can.
        expected: whether it must run, or must be refused.
    """

    name: str
    config: Config
    processes: int
    refused: str = ""
    expected: Expected = Expected.either


def case_of(config: Config, processes: int, *, model: str = "") -> Case:
    """A layout with its name, and the reason if it cannot run.

    Args:
        config: scaled down, with the layout's degrees.
        processes: ranks.
        model: in front of the name.
    """
    found = problems(config, world_size=processes)
    reason = f"{found[0].key}={found[0].value} {found[0].message} ({found[0].do})" if found else ""
    return Case(f"{model}: {layout_name(config, processes)}" if model else layout_name(config, processes), config, processes, reason)


def layout_name(config: Config, processes: int) -> str:
    """Axes, ZeRO stage and whatever else makes this layout: `tp2 x pp2 x dp2, ZeRO-1, 1f1b`."""
    p, t = config.parallel, config.train
    dp = processes // (p.tp * p.pp * p.cp)
    axes = [f"{axis}{degree}" for axis, degree in (("tp", p.tp), ("pp", p.pp), ("cp", p.cp), ("ep", p.ep), ("dp", dp)) if degree > 1]
    words = [" x ".join(axes) or "one process", f"ZeRO-{p.zero}"]
    words += ["SP"] * (p.tp > 1 and p.sequence_parallel)
    words += [p.schedule.value + (f" v{p.virtual_stages}" if p.virtual_stages > 1 else "")] * (p.pp > 1)
    words += [f"stages {'-'.join(map(str, p.stage_layers))}"] * bool(p.stage_layers)
    words += [p.context_attention.value] * (p.cp > 1)
    words += [f"offload {p.offload.value.replace('_', ' ')}"] * (p.offload is not Offload.none)
    words += [f"recompute {t.recompute.value}"] * (t.recompute is not Recompute.none)
    words += ["compiled"] * t.compile
    words += [t.precision.value] * (t.precision is not Precision.fp32)
    words += [config.optimizer.name.value] * (config.optimizer.name is not OptimizerName.adamw)
    words += [f"micro-batch {config.batch.micro_size}"]
    return ", ".join(words)


def smaller_layouts(config: Config, processes: int) -> Iterator[Case]:
    """The layout itself first, then every one with some axes at degree 1, a lower ZeRO stage, or without sequence parallelism.

    Args:
        config: scaled down, with the full layout's degrees.
        processes: ranks of the full layout.
    """
    p = config.parallel
    dp = processes // (p.tp * p.pp * p.cp)
    seen = set()
    for tp, pp, cp, data, ep in product(*(sorted({degree, 1}, reverse=True) for degree in (p.tp, p.pp, p.cp, dp, p.ep))):
        if data * cp % ep:
            continue
        for zero in _stages(p.zero, pp, data * cp):
            for sequence in sorted({p.sequence_parallel, False}, reverse=True) if tp > 1 else [p.sequence_parallel]:
                trial = _with(config, tp=tp, pp=pp, cp=cp, ep=ep, zero=zero, sequence_parallel=sequence)
                case = case_of(trial, tp * pp * cp * data)
                if case.name not in seen:
                    seen.add(case.name)
                    yield case


def _stages(zero: int, pp: int, replicas: int) -> list[int]:
    """The ZeRO stages worth running: none below where a pipeline fixes it, or where there is nothing to share."""
    return [zero] if pp > 1 or replicas == 1 else list(range(zero, -1, -1))


def _with(config: Config, *, tp: int, pp: int, cp: int, ep: int, zero: int, sequence_parallel: bool) -> Config:
    """A copy with other degrees; what only a pipeline or a ZeRO stage has goes with it."""
    trial = deepcopy(config)
    p = trial.parallel
    p.tp, p.pp, p.cp, p.ep, p.zero, p.sequence_parallel = tp, pp, cp, ep, zero, sequence_parallel
    if pp == 1:
        p.virtual_stages, p.stage_layers = 1, []
    if p.offload is Offload.optimizer_and_parameters and zero < 3:
        p.offload = Offload.optimizer
    if p.offload is Offload.optimizer and zero < 1:
        p.offload = Offload.none
    return trial
