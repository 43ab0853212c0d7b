"""Whether a layout agrees with the reference, by how much it differs, and where the first difference arose. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .trace import Trace, Whole, assemble

FIRST_LOSS, GRADIENT, LOSS, NORM, PARAMETER = "first_loss", "gradient", "loss", "norm", "parameter"
QUANTITIES = (FIRST_LOSS, GRADIENT, NORM, LOSS, PARAMETER)
LOW_PRECISION_SLACK = 1.5
Tolerances = Mapping[str, float]  # quantity -> largest relative difference


@dataclass(frozen=True)
class Difference:
    """The largest relative difference of one quantity.

    Args:
        quantity: one of QUANTITIES.
        value: ||a - b|| / ||b||, of one number or of one whole tensor.
        step: counted from 1: the first step that is beyond the tolerance, or the one with the largest difference.
        parameter: name of the tensor; empty for losses and norms.
        rank: that held the element which differs most.
    """

    quantity: str
    value: float
    step: int
    parameter: str = ""
    rank: int = 0

    def where(self) -> str:
        """In words."""
        place = f" of {self.parameter} (rank {self.rank})" if self.parameter else ""
        return f"step {self.step}: {self.quantity.replace('_', ' ')}{place}"


@dataclass(frozen=True)
class Verdict:
    """What became of one layout.

    Args:
        differences: by quantity.
        fault: what is wrong beyond differences: copies that are not equal, elements that nobody holds, a crash; empty: nothing.
        where: the first disagreement, in the order of time; empty where there is none.
        report: of a crash: tracebacks, and what the ranks printed.
    """

    differences: Mapping[str, Difference] = field(default_factory=dict)
    fault: str = ""
    where: str = ""
    report: str = ""

    @property
    def agrees(self) -> bool:
        """Whether everything is within its tolerance."""
        return not self.fault and not self.where

    @property
    def largest(self) -> float:
        """The largest difference of all; infinite where the layout gave no figures."""
        return max((difference.value for difference in self.differences.values()), default=math.inf)


def judge(ranks: Sequence[Trace], reference: Trace, tolerances: Tolerances, *, skipped: Mapping[str, slice],
          exact: bool = True) -> Verdict:
    """Holds the traces of all ranks of a layout against the one-process trace.

    Args:
        ranks: in rank order.
        reference: of one process.
        tolerances: of each quantity.
        skipped: rows that are not compared after the last step: their gradient is identically zero (`zero_gradients`).
        exact: the layout runs in the precision of the reference, so that its routers must prefer the same experts.
    """
    differences, faults = measure(ranks, reference, skipped=skipped, together=not exact)
    beyond = [d for d in differences.values() if not d.value <= tolerances[d.quantity]]
    if beyond:
        differences |= {d.quantity: _first_beyond(d, ranks[0], reference, tolerances) for d in beyond}
        beyond = [differences[d.quantity] for d in beyond]
    faults += [f"rank {rank} saw other losses or norms than rank 0" for rank, trace in enumerate(ranks)
               if not _same(trace.losses, ranks[0].losses) or not _same(trace.norms, ranks[0].norms)]
    if exact:
        faults += [f"rank {rank}: routers clearly preferred other experts than the reference, {trace.strayed} times"
                   for rank, trace in enumerate(ranks) if trace.strayed]
    first = min(beyond, key=lambda d: (d.step, QUANTITIES.index(d.quantity)), default=None)
    return Verdict(differences, faults[0] if faults else "", first.where() if first else "")


def measure(ranks: Sequence[Trace], reference: Trace, *, skipped: Mapping[str, slice],
            together: bool = False) -> tuple[dict[str, Difference], list[str]]:
    """The largest difference of each quantity, and what is wrong beyond differences. Arguments as `judge`.

    Args:
        together: the parameters are compared as one vector, not tensor by tensor: in a low precision, an optimizer that divides by the
            size of a gradient makes steps out of the noise in a small one.
    """
    steps = len(reference.losses)
    losses, norms = _relative(ranks[0].losses, reference.losses), _relative(ranks[0].norms, reference.norms)
    gradients, parameters = assemble([r.gradients for r in ranks]), assemble([r.parameters for r in ranks])
    found = [Difference(FIRST_LOSS, losses[0], 1),
             _largest_tensor(GRADIENT, gradients, assemble([reference.gradients]), {}, step=1),
             Difference(NORM, max(norms), 1 + norms.index(max(norms))), Difference(LOSS, max(losses), 1 + losses.index(max(losses))),
             (_all_tensors if together else _largest_tensor)(PARAMETER, parameters, assemble([reference.parameters]), skipped, step=steps)]
    faults = [f"{kind} of {name} on rank {whole.fault_rank}: {whole.fault}"
              for kind, wholes in ((GRADIENT, gradients), (PARAMETER, parameters)) for name, whole in wholes.items() if whole.fault]
    return {difference.quantity: difference for difference in found}, faults


def widened(tolerances: Tolerances, low: Sequence[Trace], exact: Trace, *, skipped: Mapping[str, slice]) -> dict[str, float]:
    """Tolerances for a low precision: how far one process in that precision is from one process in fp32.

    A norm may be off by as much as the gradient that it is of, the first loss by as much as any. Roundings that fall otherwise are another
    draw of the same noise, and the largest of many draws varies: hence LOW_PRECISION_SLACK.

    Args:
        tolerances: of fp32.
        low: one-process traces in the low precision, which differ in how a step is cut into micro-batches.
        exact: one process in fp32.
        skipped: as `judge`.
    """
    runs = [measure([trace], exact, skipped=skipped, together=True)[0] for trace in low]
    distance = {quantity: max(run[quantity].value for run in runs) for quantity in tolerances}
    distance[NORM] = max(distance[NORM], distance[GRADIENT])
    distance[FIRST_LOSS] = max(distance[FIRST_LOSS], distance[LOSS])
    return {quantity: max(tolerance, LOW_PRECISION_SLACK * distance[quantity]) for quantity, tolerance in tolerances.items()}


def _first_beyond(largest: Difference, trace: Trace, reference: Trace, tolerances: Tolerances) -> Difference:
    """For a quantity of every step: the first step that is beyond the tolerance, with the largest value of all."""
    series = {NORM: (trace.norms, reference.norms), LOSS: (trace.losses, reference.losses)}.get(largest.quantity)
    if series is None:
        return largest
    step = next(at for at, value in enumerate(_relative(*series), 1) if not value <= tolerances[largest.quantity])
    return replace(largest, step=step)


def _relative(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each step; infinite where either is not finite, or a step is missing."""
    if len(ours) != len(theirs):
        return [math.inf] * max(1, len(theirs))
    return [abs(a - b) / abs(b) if math.isfinite(a) and math.isfinite(b) and b else (0.0 if a == b else math.inf)
            for a, b in zip(ours, theirs, strict=True)]


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    return np.array_equal(np.array(a), np.array(b), equal_nan=True)


def _largest_tensor(quantity: str, ours: Mapping[str, Whole], theirs: Mapping[str, Whole], skipped: Mapping[str, slice], *,
                    step: int) -> Difference:
    """The tensor that differs most; a tensor that one side lacks differs infinitely."""
    found = [Difference(quantity, _ratio(gap.size, gap.scale), step, gap.name, gap.rank) for gap in _gaps(ours, theirs, skipped)]
    return max(found, key=lambda d: (d.value, d.parameter), default=Difference(quantity, math.inf, step))


def _all_tensors(quantity: str, ours: Mapping[str, Whole], theirs: Mapping[str, Whole], skipped: Mapping[str, slice], *,
                 step: int) -> Difference:
    """All tensors as one vector, and the one that adds most to the difference."""
    gaps = list(_gaps(ours, theirs, skipped))
    most = max(gaps, key=lambda gap: (gap.size, gap.name), default=None)
    if most is None:
        return Difference(quantity, math.inf, step)
    value = _ratio(math.hypot(*(gap.size for gap in gaps)), math.hypot(*(gap.scale for gap in gaps)))
    return Difference(quantity, value, step, most.name, most.rank)


@dataclass(frozen=True)
class _Gap:
    name: str
    size: float  # ||a - b||
    scale: float  # ||b||
    rank: int  # that held the element which differs most


def _gaps(ours: Mapping[str, Whole], theirs: Mapping[str, Whole], skipped: Mapping[str, slice]) -> Iterator[_Gap]:
    for name in ours.keys() ^ theirs.keys():
        yield _Gap(name, math.inf, 1.0, 0)
    for name in ours.keys() & theirs.keys():
        gap = (ours[name].values - theirs[name].values).astype(np.float64)
        base = theirs[name].values.astype(np.float64)
        if name in skipped:
            gap[skipped[name]] = 0.0
        rank = int(ours[name].owner[int(np.argmax(np.where(np.isnan(gap), np.inf, np.abs(gap))))])
        yield _Gap(name, float(np.sqrt(gap @ gap)), float(np.sqrt(base @ base)), max(0, rank))


def _ratio(size: float, scale: float) -> float:
    """size / scale; 0 / 0 agrees, and what is not finite or has nothing to compare with does not."""
    return 0.0 if size == 0.0 else size / scale if scale and math.isfinite(size) else math.inf
