"""Which blocks a pipeline stage holds, which rank holds a stage, and how many micro-batches a schedule takes. Pure arithmetic."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

LOOPED = frozenset({"gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble"})
V_SHAPED = frozenset({"zbv", "dualpipev"})
# the gradient of a stage's input comes first, those of its weights later: they fill what would be idle time
SPLIT_BACKWARD = frozenset({"interleaved_zero_bubble", "zbv", "dualpipev"})


@dataclass(frozen=True)
class Stage:
    """A slice of the model.

    Args:
        index: place in the pipeline, from 0.
        layers: numbers of its blocks.
        first: it holds the embedding.
        last: it holds the final norm and the head.
    """

    index: int
    layers: range
    first: bool
    last: bool

    @classmethod
    def whole(cls, num_layers: int) -> "Stage":
        """The one stage of a model that is not cut."""
        return cls(0, range(num_layers), first=True, last=True)


def stages_of(counts: Sequence[int]) -> list[Stage]:
    """Consecutive stages with so many blocks each."""
    stages, start = [], 0
    for index, number in enumerate(counts):
        stages.append(Stage(index, range(start, start + number), first=index == 0, last=index == len(counts) - 1))
        start += number
    return stages


@dataclass(frozen=True)
class Placement:
    """Which rank of a pipeline holds which stages.

    Args:
        pp: ranks of the pipeline.
        per_rank: stages of each.
        v_shaped: every second round runs back, so that the first and the last stage of two rounds lie on rank 0, and the two in the
            middle on the last rank; otherwise stages go round and round.
    """

    pp: int
    per_rank: int = 1
    v_shaped: bool = False

    @classmethod
    def of(cls, schedule: str, *, pp: int, virtual_stages: int = 1) -> "Placement":
        """The placement that a schedule wants."""
        return cls(pp, stages_per_rank(schedule, virtual_stages), schedule in V_SHAPED)

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline."""
        return self.pp * self.per_rank

    def owner(self, stage: int) -> int:
        """The rank, counted along the pipeline, that holds a stage."""
        turn, place = divmod(stage, self.pp)
        return self.pp - 1 - place if self.v_shaped and turn % 2 else place

    def held_by(self, rank: int) -> list[int]:
        """The stages of one rank of the pipeline, ascending."""
        return [stage for stage in range(self.num_stages) if self.owner(stage) == rank]


def stages_per_rank(schedule: str, virtual_stages: int) -> int:
    """Stages that each rank of the pipeline holds: only the interleaved schedules leave a choice.

    Raises:
        ValueError: no such schedule.
    """
    if schedule not in LOOPED | V_SHAPED:
        raise ValueError(f"parallel.schedule={schedule} is unknown; choose from {sorted(LOOPED | V_SHAPED)}")
    if schedule in V_SHAPED:
        return 2
    return virtual_stages if schedule.startswith("interleaved") else 1


def micro_batch_fault(schedule: str, *, pp: int, virtual_stages: int, micro_batches: int) -> tuple[str, list[int]] | None:
    """Why torch's schedule cannot run a step of so many micro-batches; None where it can.

    Args:
        schedule: parallel.schedule.
        pp: ranks of the pipeline.
        virtual_stages: parallel.virtual_stages.
        micro_batches: of one step on one rank.

    Returns:
        The reason, and the nearest numbers that are right: one below, where there is one, and one above.
    """
    rule = _rule(schedule, pp, pp * stages_per_rank(schedule, virtual_stages))
    if rule is None or rule[0](micro_batches):
        return None
    fits, reason = rule
    below = next((n for n in range(micro_batches - 1, 0, -1) if fits(n)), None)
    above = next(n for n in count(max(1, micro_batches + 1)) if fits(n))
    return reason, [above] if below is None else [below, above]


def _rule(schedule: str, pp: int, stages: int) -> tuple[Callable[[int], bool], str] | None:
    """Which numbers of micro-batches a schedule takes, and what to say of the others; None: it takes all."""
    if schedule in ("1f1b", "dualpipev"):
        return lambda n: n >= stages, f"{schedule} needs at least as many micro-batches as its {stages} stages"
    if schedule.startswith("interleaved"):
        # a round is what all ranks do with one stage before they go on to the next: as near to pp micro-batches as is even
        return lambda n: n % max(1, n // pp) == 0, f"{schedule} goes in rounds of {pp} micro-batches or a few more, all equal"
    return None


def balanced(costs: Sequence[float], stages: int, *, first: float = 0.0, last: float = 0.0) -> list[int]:
    """Cut a row of blocks into consecutive stages so that the most expensive stage is as cheap as can be, and the others as even.

    Exact: one dynamic program finds the least largest cost, a second, among the cuts that keep to it, the least sum of squares.

    Args:
        costs: of each block, in any unit.
        stages: how many; each gets at least one block.
        first: added to the first stage: the embedding.
        last: added to the last stage: the head.

    Returns:
        Blocks of each stage.

    Raises:
        ValueError: fewer blocks than stages.
    """
    if not 1 <= stages <= len(costs):
        raise ValueError(f"{len(costs)} blocks cannot be cut into {stages} stages of at least one block; "
                         f"use 1 to {len(costs)} stages (parallel.pp x parallel.virtual_stages)")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)

    def cost_of(stage: int, start: int, stop: int) -> float:
        return sums[stop] - sums[start] + (first if stage == 0 else 0.0) + (last if stage == stages - 1 else 0.0)

    bound, _ = _best_cut(len(costs), stages, cost_of, max)
    limit = bound * (1 + 1e-12)  # the same cut may round differently in the second pass
    _, counts = _best_cut(len(costs), stages, lambda *cut: cost if (cost := cost_of(*cut)) <= limit else float("inf"),
                          lambda total, cost: total + cost * cost)
    return counts


def _best_cut(blocks: int, stages: int, cost_of: Callable[[int, int, int], float],
              joined: Callable[[float, float], float]) -> tuple[float, list[int]]:
    """The cut of least total, where a total is `joined` from the stages' costs one after another; and that total."""
    best: list[tuple[float, list[int]]] = [(float("inf"), [])] * (blocks + 1)
    best[0] = (0.0, [])
    for stage in range(stages):
        best = [_extended(best, stage, stop, stages - 1 - stage, cost_of, joined) if stop > stage else (float("inf"), [])
                for stop in range(blocks + 1)]
    total, cuts = best[blocks]
    return total, [b - a for a, b in pairwise([0, *cuts])]


def _extended(best: Sequence[tuple[float, list[int]]], stage: int, stop: int, after: int, cost_of: Callable[[int, int, int], float],
              joined: Callable[[float, float], float]) -> tuple[float, list[int]]:
    """The best row of stages whose last one ends before block `stop`, from the best rows of one stage less."""
    if stop > len(best) - 1 - after:  # the stages after this one need a block each
        return float("inf"), []

    def candidates() -> Iterator[tuple[float, int]]:
        for start in range(stage, stop):
            if best[start][0] < float("inf"):
                yield joined(best[start][0], cost_of(stage, start, stop)), start

    total, start = min(candidates(), default=(float("inf"), 0))
    return total, [*best[start][1], stop]
