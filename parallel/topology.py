"""The grid of ranks: which coordinate a rank has on each parallel axis, and which ranks share a group. Pure arithmetic."""

from dataclasses import dataclass
from math import prod

AXES = ("pp", "dp", "cp", "tp")  # outermost first: tensor-parallel ranks are neighbours, on the fastest links


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """Where a rank stands on each axis."""

    pp: int
    dp: int
    cp: int
    tp: int


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Degrees of the parallel axes; rank = ((pp * DP + dp) * CP + cp) * TP + tp.

    The expert axis is no axis of its own: it is a view of the `dp * cp` ranks that hold equal dense parameters, cut into blocks of `ep`.

    Args:
        tp, pp, cp, ep, dp: degrees, each at least 1; `ep` divides `dp * cp`.

    Raises:
        ValueError: a degree is below 1 or `ep` does not fit.
    """

    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        for axis in ("tp", "pp", "cp", "ep", "dp"):
            if getattr(self, axis) < 1:
                raise ValueError(f"parallel.{axis}={getattr(self, axis)} must be at least 1")
        if (self.dp * self.cp) % self.ep:
            raise ValueError(f"parallel.ep={self.ep} must divide dp * cp = {self.dp} * {self.cp}; try ep in {divisors(self.dp * self.cp)}")

    @classmethod
    def divide(cls, *, world_size: int, tp: int = 1, pp: int = 1, cp: int = 1, ep: int = 1) -> "Topology":
        """The topology in which dp is what remains of the world size.

        Raises:
            ValueError: the degrees do not divide `world_size` exactly.
        """
        for axis, degree in (("tp", tp), ("pp", pp), ("cp", cp), ("ep", ep)):
            if degree < 1:
                raise ValueError(f"parallel.{axis}={degree} must be at least 1")
        model = tp * pp * cp
        if world_size < 1 or world_size % model:
            raise ValueError(
                f"parallel.tp={tp} * parallel.pp={pp} * parallel.cp={cp} = {model} must divide the {world_size} ranks; "
                f"start a multiple of {model} ranks, or choose degrees whose product is in {divisors(world_size)}")
        return cls(tp=tp, pp=pp, cp=cp, ep=ep, dp=world_size // model)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return prod(self._degrees)

    def coordinate(self, rank: int) -> Coordinate:
        """The coordinate of a rank.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank={rank} is outside the {self.world_size} ranks of {self}")
        place: dict[str, int] = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, self._degree(axis))
        return Coordinate(**place)

    def rank(self, coordinate: Coordinate) -> int:
        """The rank that stands at a coordinate.

        Raises:
            ValueError: the coordinate is outside the grid.
        """
        rank = 0
        for axis in AXES:
            place, degree = getattr(coordinate, axis), self._degree(axis)
            if not 0 <= place < degree:
                raise ValueError(f"coordinate {axis}={place} is outside [0, {degree})")
            rank = rank * degree + place
        return rank

    def ranks_along(self, *axes: str) -> list[list[int]]:
        """The groups of ranks that differ only along the given axes.

        Args:
            axes: names out of pp, dp, cp, tp; several span a plane (`"pp", "tp"` is the model). `"ep"`, alone, gives the ranks that
                hold the experts once; `"expert_dp"`, alone, those that hold equal experts.

        Returns:
            Every group, each ascending, ordered by its first rank; together they hold each rank once.
        """
        if axes == ("ep",):
            return sorted(group[i:i + self.ep] for group in self.ranks_along("dp", "cp") for i in range(0, len(group), self.ep))
        if axes == ("expert_dp",):
            return sorted(group[i::self.ep] for group in self.ranks_along("dp", "cp") for i in range(self.ep))
        unknown = set(axes) - set(AXES)
        if unknown or not axes:
            raise ValueError(f"unknown axes {sorted(unknown)}; choose from {AXES}, or 'ep' or 'expert_dp' alone")
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            coordinate = self.coordinate(rank)
            fixed = tuple(getattr(coordinate, axis) for axis in AXES if axis not in axes)
            groups.setdefault(fixed, []).append(rank)
        return sorted(groups.values())

    def pipeline_ends(self) -> list[list[int]]:
        """The pairs of ranks on the first and the last place of one pipeline: who share a tied embedding."""
        return [[ranks[0], ranks[-1]] for ranks in self.ranks_along("pp")]

    @property
    def _degrees(self) -> tuple[int, ...]:
        return tuple(self._degree(axis) for axis in AXES)

    def _degree(self, axis: str) -> int:
        return int(getattr(self, axis))


def divisors(number: int) -> list[int]:
    """The divisors of a positive number, ascending: what an error message can offer."""
    return [d for d in range(1, number + 1) if number % d == 0]
