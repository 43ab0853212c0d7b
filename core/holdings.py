"""What each rank of a layout holds: stages, heads, rows of the vocabulary, tokens, experts, its share of the ZeRO state. Pure."""

from dataclasses import dataclass

from ..conf.schema import Config, ModelConfig
from ..parallel.partition import shard_padded
from ..parallel.sequence_cut import chunks
from ..parallel.stages import Placement, Stage
from ..parallel.topology import Coordinate, Topology
from .stage_plan import placement, stage_plan


@dataclass(frozen=True)
class Holding:
    """One rank's part.

    Args:
        rank, node: numbers.
        coordinate: its place on each axis.
        stages: of the pipeline, ascending.
        heads, kv_heads: of every attention in these stages.
        vocabulary: rows of embedding and head, where a stage of this rank has one; shorter than the others', or empty, at the padding.
        tokens: of every window, in runs.
        experts: of every block with experts.
        share: which piece of the ZeRO state of its dense parameters, of `Layout.replicas`.
    """

    rank: int
    node: int
    coordinate: Coordinate
    stages: tuple[Stage, ...]
    heads: range
    kv_heads: range
    vocabulary: range
    tokens: tuple[range, ...]
    experts: range
    share: int


@dataclass(frozen=True)
class Layout:
    """Topology, stages and sizes together.

    Args:
        topology: the degrees.
        stages: of the pipeline, first to last.
        placement: which rank of a pipeline holds which of them.
        model: sizes.
        ranks_per_node: ranks of one machine, numbered one after another.
        zero: stage of ZeRO.
        context_attention: ring or ulysses.
        sequence_parallel: norms and residuals are cut over the tensor axis too.
    """

    topology: Topology
    stages: tuple[Stage, ...]
    placement: Placement
    model: ModelConfig
    ranks_per_node: int
    zero: int
    context_attention: str
    sequence_parallel: bool

    @classmethod
    def of(cls, config: Config, *, world_size: int, ranks_per_node: int) -> "Layout":
        """The layout of a run whose config has no problems (core/combine.py).

        Raises:
            ValueError: the degrees do not divide the ranks, or the model does not fit them.
        """
        p = config.parallel
        topology = Topology.divide(world_size=world_size, tp=p.tp, pp=p.pp, cp=p.cp, ep=p.ep)
        return cls(topology, tuple(stage_plan(config.model, p)), placement(p), config.model, ranks_per_node, p.zero,
                   p.context_attention.value, p.sequence_parallel and p.tp > 1)

    @property
    def replicas(self) -> int:
        """Ranks that hold equal dense parameters, and cut their ZeRO state among them."""
        return self.topology.dp * self.topology.cp

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return -(-self.topology.world_size // self.ranks_per_node)

    def node(self, rank: int) -> int:
        """The machine of a rank."""
        return rank // self.ranks_per_node

    def inside_nodes(self, *axes: str) -> bool:
        """Whether no group along these axes has ranks of two machines."""
        return all(self.node(ranks[0]) == self.node(ranks[-1]) for ranks in self.topology.ranks_along(*axes))

    def holding(self, rank: int) -> Holding:
        """What one rank holds."""
        place = self.topology.coordinate(rank)
        replica = place.dp * self.topology.cp + place.cp
        return Holding(rank, self.node(rank), place, self.stages_of(place.pp), self.heads_of(place.tp), self.kv_heads_of(place.tp),
                       self.vocabulary_of(place.tp), self.tokens_of(place.cp), self.experts_of(replica % self.topology.ep), replica)

    def stages_of(self, pp: int) -> tuple[Stage, ...]:
        """The stages at one place of the pipeline."""
        return tuple(self.stages[i] for i in self.placement.held_by(pp))

    def heads_of(self, tp: int) -> range:
        """The query heads at one place of the tensor axis."""
        size = self.model.num_heads // self.topology.tp
        return range(tp * size, (tp + 1) * size)

    def kv_heads_of(self, tp: int) -> range:
        """The key and value heads at one place of the tensor axis; fewer heads than places are held by several."""
        heads, degree = self.model.num_kv_heads, self.topology.tp
        first = tp * heads // degree
        return range(first, max(first + 1, (tp + 1) * heads // degree))

    def vocabulary_of(self, tp: int) -> range:
        """The rows of embedding and head at one place of the tensor axis."""
        pieces = shard_padded((self.model.vocab_size,), dim=0, degree=self.topology.tp, index=tp).pieces
        return range(pieces[0].start, pieces[0].start + pieces[0].length) if pieces else range(0)

    def tokens_of(self, cp: int) -> tuple[range, ...]:
        """The tokens of a window at one place of the context axis."""
        return tuple(chunks(self.model.sequence_length, cp=self.topology.cp, rank=cp, kind=self.context_attention))

    def experts_of(self, ep: int) -> range:
        """The experts at one place of the expert axis."""
        size = self.model.num_experts // self.topology.ep
        return range(ep * size, (ep + 1) * size)
