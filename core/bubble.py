"""How long a pipeline's ranks wait: the run of a schedule simulated from the order of actions that each rank follows. Pure.

The bubble is the part of all ranks' time in which they compute nothing, 1 - busy / (ranks x makespan). With m micro-batches on p ranks it
is (p - 1) / (m + p - 1) for gpipe and 1f1b, (p - 1) / (v m + p - 1) for interleaved_1f1b with v stages a rank (Narayanan et al. 2021,
"Efficient large-scale language model training on GPU clusters", section 2.2); zero-bubble schedules: Qi et al. 2023.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

Thing = tuple[str, int, int]  # an activation or a gradient, of a stage, of a micro-batch


class Kind(StrEnum):
    forward = "F"
    backward = "B"  # both of the next two at once
    input_gradient = "I"
    weight_gradient = "W"


@dataclass(frozen=True)
class Action:
    """One computation of a rank: a kind of pass of a micro-batch through a stage."""

    kind: Kind
    stage: int
    micro_batch: int


@dataclass(frozen=True)
class Course:
    """A simulated step.

    Args:
        spans: action -> (start, end) in units of cost.
        ranks: of the pipeline.
    """

    spans: Mapping[Action, tuple[float, float]]
    ranks: int

    @property
    def makespan(self) -> float:
        """From the first action's start to the last one's end."""
        return max(end for _, end in self.spans.values()) - min(start for start, _ in self.spans.values())

    @property
    def bubble(self) -> float:
        """The idle part of all ranks' time."""
        return bubble_of(sum(end - start for start, end in self.spans.values()), ranks=self.ranks, makespan=self.makespan)


def bubble_of(busy: float, *, ranks: int, makespan: float) -> float:
    """1 - busy / (ranks x makespan); busy time is that of all ranks."""
    return 1.0 - busy / (ranks * makespan)


def equal_costs(action: Action) -> float:
    """Forward, input gradient and weight gradient cost 1 each.

    torch runs the whole backward pass of the first stage, to which nobody waits, in the place of its weight gradient.
    """
    first = action.stage == 0
    return {Kind.forward: 1.0, Kind.backward: 2.0, Kind.input_gradient: 0.0 if first else 1.0,
            Kind.weight_gradient: 2.0 if first else 1.0}[action.kind]


class Rank:
    """One rank on its way through its order.

    Args:
        order: groups of actions, run one after the other; what a group gives leaves the rank only when all of it is done.
    """

    def __init__(self, order: Sequence[Sequence[Action]]) -> None:
        self._steps = [(action, action is group[-1]) for group in order for action in group]
        self._next, self._free = 0, 0.0
        self._own: dict[Thing, float] = {}  # things made here, and when
        self._kept: list[Thing] = []  # those of the running group

    @property
    def waits_for(self) -> Action | None:
        """The next action; None at the end."""
        return self._steps[self._next][0] if self._next < len(self._steps) else None

    def advance(self, published: dict[Thing, float], last: int, cost: Callable[[Action], float]) -> dict[Action, tuple[float, float]]:
        """Runs until something is missing; adds what leaves this rank to `published`.

        Returns:
            When each action ran that could.
        """
        spans = {}
        while self._next < len(self._steps):
            action, ends_group = self._steps[self._next]
            times = [self._own.get(need, published.get(need)) for need in _needs(action, last)]
            known = [at for at in times if at is not None]
            if len(known) < len(times):
                break
            start = max([self._free, *known])
            self._free = start + cost(action)
            spans[action] = start, self._free
            if action.kind is not Kind.weight_gradient:
                thing = "activation" if action.kind is Kind.forward else "gradient", action.stage, action.micro_batch
                self._own[thing] = self._free
                self._kept.append(thing)
            if ends_group:
                published.update(dict.fromkeys(self._kept, self._free))
                self._kept.clear()
            self._next += 1
        return spans


def simulate(orders: Sequence[Sequence[Sequence[Action]]], cost: Callable[[Action], float] = equal_costs) -> Course:
    """Each rank takes its actions in order, each as soon as what it needs is there; messages take no time.

    Args:
        orders: of each rank, as groups of actions: most of one, but dualpipev's pairs are sent only when both are done.
        cost: of an action.

    Raises:
        ValueError: the ranks would wait for each other for ever.
    """
    spans: dict[Action, tuple[float, float]] = {}
    published: dict[Thing, float] = {}
    last = max(action.stage for order in orders for group in order for action in group)
    ranks = [Rank(order) for order in orders]
    while any(rank.waits_for for rank in ranks):
        moved = [rank.advance(published, last, cost) for rank in ranks]
        if not any(moved):
            stuck = [str(rank.waits_for) for rank in ranks if rank.waits_for]
            raise ValueError(f"a deadlock: {stuck} wait for each other, or for what no rank does")
        for part in moved:
            spans |= part
    return Course(spans, len(orders))


def _needs(action: Action, last: int) -> list[Thing]:
    """What must be there before: what the stage before gave; for a backward pass the stage's own activation and the next one's gradient."""
    stage, number = action.stage, action.micro_batch
    if action.kind is Kind.forward:
        return [("activation", stage - 1, number)] if stage else []
    if action.kind is Kind.weight_gradient:
        return [("gradient", stage, number)]
    return [("activation", stage, number), *([("gradient", stage + 1, number)] if stage < last else [])]


def one_f_one_b_bubble(p: int, m: int, v: int = 1) -> float:
    """Of 1f1b and gpipe (v = 1), and of interleaved_1f1b with v stages a rank.

    Args:
        p: ranks.
        m: micro-batches.
        v: stages of each rank.
    """
    return (p - 1) / (v * m + p - 1)
