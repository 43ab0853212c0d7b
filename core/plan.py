"""What a run will need, known before it starts: which rank holds what, and how much. Pure: no GPU, no torch, any number of ranks."""

from dataclasses import asdict, dataclass
from typing import Any

from ..conf.schema import Config
from ..parallel.stages import Stage
from .held_parameters import held_parameters
from .holdings import Layout
from .picture import aligned, picture, stages_in_words


@dataclass(frozen=True)
class Place:
    """What each rank at one place of the pipeline holds.

    Args:
        pp: the place.
        stages: its stages.
        dense: elements of its parameters that are equal on all data replicas.
        experts: elements of those that belong to experts.
    """

    pp: int
    stages: tuple[Stage, ...]
    dense: int
    experts: int

    @property
    def parameters(self) -> int:
        """Elements of all parameters on one rank, before ZeRO cuts anything."""
        return self.dense + self.experts


@dataclass(frozen=True)
class Plan:
    """The layout of a run, and what each place of it costs.

    Args:
        layout: which rank holds what.
        parameters: elements of the whole model.
        places: along the pipeline.
    """

    layout: Layout
    parameters: int
    places: tuple[Place, ...]

    @classmethod
    def of(cls, config: Config, *, world_size: int, ranks_per_node: int) -> "Plan":
        """The plan of a run whose config has no problems (core/combine.py)."""
        layout = Layout.of(config, world_size=world_size, ranks_per_node=ranks_per_node)
        whole = held_parameters(config.model, [Stage.whole(config.model.num_layers)])
        return cls(layout, sum(each.size for each in whole), tuple(_place(layout, pp) for pp in range(layout.topology.pp)))

    def text(self) -> str:
        """For a person: the picture, then what each place holds."""
        rows = [["pipeline", "stages", "parameters of each rank", "dense", "experts"]]
        rows += [[f"pp {each.pp}", stages_in_words(each.stages, numbered=self.layout.topology.pp > 1), f"{each.parameters:,}",
                  f"{each.dense:,}", f"{each.experts:,}"] for each in self.places]
        return f"{picture(self.layout)}\n\n{self.parameters:,} parameters\n{aligned(rows)}"

    def as_json(self) -> dict[str, Any]:
        """For a machine: plain values."""
        t = self.layout.topology
        return {
            "ranks": t.world_size, "ranks_per_node": self.layout.ranks_per_node, "nodes": self.layout.num_nodes,
            "axes": {axis: getattr(t, axis) for axis in ("pp", "dp", "cp", "tp", "ep")}, "zero": self.layout.zero,
            "tensor_axis_inside_node": self.layout.inside_nodes("tp"), "parameters": self.parameters,
            "places": [{"pp": each.pp, "stages": [stage.index for stage in each.stages], "parameters": each.parameters,
                        "dense_parameters": each.dense, "expert_parameters": each.experts} for each in self.places],
            "stages": [{"stage": stage.index, "pp": self.layout.placement.owner(stage.index), "layers": _ends(stage.layers),
                        "embedding": stage.first, "head": stage.last} for stage in self.layout.stages],
            "rank": [self._rank(rank) for rank in range(t.world_size)],
        }

    def _rank(self, rank: int) -> dict[str, Any]:
        held = self.layout.holding(rank)
        return {
            "rank": rank, "node": held.node, **asdict(held.coordinate), "stages": [stage.index for stage in held.stages],
            "heads": _ends(held.heads), "kv_heads": _ends(held.kv_heads), "vocabulary": _ends(held.vocabulary),
            "tokens": [_ends(run) for run in held.tokens], "experts": _ends(held.experts), "zero_piece": held.share,
            "parameters": self.places[held.coordinate.pp].parameters,
        }


def _place(layout: Layout, pp: int) -> Place:
    stages = layout.stages_of(pp)
    held = held_parameters(layout.model, stages, tp=layout.topology.tp, ep=layout.topology.ep)
    experts = sum(each.size for each in held if each.expert)
    return Place(pp, stages, sum(each.size for each in held) - experts, experts)


def _ends(numbers: range) -> list[int]:
    """First and last, both included; empty for none."""
    return [numbers[0], numbers[-1]] if numbers else []
