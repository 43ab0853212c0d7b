"""What a run will need, known before it starts: which rank holds what, and how much. Pure: no GPU, no torch, any number of ranks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...conf.schema import Config, Offload, Precision
from ...parallel.stages import Stage
from ..checkpoint.storage import in_words
from ..flops import active_parameter_count, parameter_count
from ..held_parameters import held_parameters
from ..held_state import held_state
from ..holdings import Layout
from ..layouts import zero_rules
from ..memory import StateBytes
from ..picture import aligned, picture, stages_in_words
from .activations import activation_bytes
from .in_flight import EXACT, most_held, parts_at_peak
from .shapes import FP32, Shapes

IN_HOST_MEMORY = {Offload.none: "", Offload.optimizer: "\nmasters and moments lie in the host's memory",
                  Offload.optimizer_and_parameters: "\nparameters, masters and moments lie in the host's memory"}


@dataclass(frozen=True)
class Place:
    """What each rank at one place of the pipeline holds.

    Args:
        pp: the place.
        stages: its stages.
        dense: elements of its parameters that are equal on all data replicas.
        experts: elements of those that belong to experts.
        state: bytes of parameters, gradients, masters and moments on the first data replica, by each ZeRO stage that this layout allows.
        activations: most bytes that it keeps for backward passes at any time of a step, by part (core/planning/activations.py).
    """

    pp: int
    stages: tuple[Stage, ...]
    dense: int
    experts: int
    state: Mapping[int, StateBytes]
    activations: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """Elements of all parameters on one rank, before ZeRO cuts anything."""
        return self.dense + self.experts


@dataclass(frozen=True)
class Plan:
    """The layout of a run, and what each place of it costs.

    Args:
        layout: which rank holds what.
        offload: what of the state lies in the host's memory.
        parameters: elements of the whole model.
        active: those that one token passes: all but the experts that it is not sent to.
        places: along the pipeline.
        bound: what must be said of the activations' count; mostly nothing.
    """

    layout: Layout
    offload: Offload
    parameters: int
    active: int
    places: tuple[Place, ...]
    bound: str = ""

    @classmethod
    def of(cls, config: Config, *, world_size: int, ranks_per_node: int) -> "Plan":
        """The plan of a run whose config has no problems (core/combine.py)."""
        layout = Layout.of(config, world_size=world_size, ranks_per_node=ranks_per_node)
        return cls(layout, config.parallel.offload, sum(parameter_count(config.model).values()), active_parameter_count(config.model),
                   tuple(_place(config, layout, pp) for pp in range(layout.topology.pp)), _bound(config))

    def text(self) -> str:
        """For a person: the picture, then what each place holds, as state and as activations."""
        active = f", {self.active:,} of them active for a token" if self.active != self.parameters else ""
        first = f"{self.parameters:,} parameters{active}\n{self._held()}"
        return "\n\n".join((picture(self.layout), first, self._state(), self._activations()))

    def _held(self) -> str:
        rows = [["", "stages", "parameters of each rank"]]
        rows += [[f"pp {each.pp}", stages_in_words(each.stages, numbered=self.layout.topology.pp > 1), f"{each.parameters:,}"]
                 for each in self.places]
        if any(each.experts for each in self.places):
            rows[0].append("in experts")
            for row, each in zip(rows[1:], self.places, strict=True):
                row.append(f"{each.experts:,}")
        return aligned(rows)

    def _state(self) -> str:
        """By each ZeRO stage that the layout allows."""
        rows = [["", "stage", "parameters", "gradients", "masters", "moments", "bytes of state on each rank"]]
        for each in self.places:
            for zero, state in each.state.items():
                kinds = (state.parameters, state.gradients, state.masters, state.moments)
                chosen = "  <- parallel.zero" if zero == self.layout.zero else ""
                rows.append([f"pp {each.pp}", f"ZeRO-{zero}", *map(in_words, kinds), in_words(state.total) + chosen])
        return f"{aligned(rows)}{IN_HOST_MEMORY[self.offload]}"

    def _activations(self) -> str:
        """What lives at the peak of a step; a part that no place has is left out."""
        parts = [part for part in self.places[0].activations if any(each.activations[part] for each in self.places)]
        rows = [["", *parts, "activations at most"]]
        rows += [[f"pp {each.pp}", *(in_words(each.activations[part]) for part in parts), in_words(sum(each.activations.values()))]
                 for each in self.places]
        return f"{aligned(rows)}\nthe workspace of kernels and the buffers of collectives come on top{self.bound}"

    def as_json(self) -> dict[str, Any]:
        """For a machine: plain values."""
        t = self.layout.topology
        return {
            "ranks": t.world_size, "ranks_per_node": self.layout.ranks_per_node, "nodes": self.layout.num_nodes,
            "axes": {axis: getattr(t, axis) for axis in ("pp", "dp", "cp", "tp", "ep")}, "zero": self.layout.zero,
            "offload": self.offload.value,
            "tensor_axis_inside_node": self.layout.inside_nodes("tp"), "parameters": self.parameters,
            "active_parameters": self.active,
            "places": [{"pp": each.pp, "stages": [stage.index for stage in each.stages], "parameters": each.parameters,
                        "dense_parameters": each.dense, "expert_parameters": each.experts,
                        "activation_bytes": dict(each.activations) | {"total": sum(each.activations.values())},
                        "state_bytes": {f"zero_{zero}": asdict(state) | {"total": state.total} for zero, state in each.state.items()}}
                       for each in self.places],
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


def _place(config: Config, layout: Layout, pp: int) -> Place:
    stages = layout.stages_of(pp)
    held = held_parameters(layout.model, stages, tp=layout.topology.tp, ep=layout.topology.ep)
    experts = sum(each.size for each in held if each.expert)
    allowed = [zero for zero in range(4) if not list(zero_rules(replace(config, parallel=replace(config.parallel, zero=zero))))]
    state = {zero: held_state(config, held, replicas=layout.replicas, zero=zero) for zero in allowed}
    return Place(pp, stages, sum(each.size for each in held) - experts, experts, state, _activations(config, layout, pp))


def _activations(config: Config, layout: Layout, pp: int) -> dict[str, int]:
    """At the peak, with the buffers that torch's pipeline keeps for each micro-batch's arriving hidden states and gradients, in fp32."""
    stages, degree = layout.stages_of(pp), layout.topology.pp
    micro_batches = config.batch.global_size // (config.batch.micro_size * layout.topology.dp)
    parts = [activation_bytes(config, stage) for stage in stages]
    most = most_held(config.parallel.schedule.value, pp=degree, rank=pp, micro_batches=micro_batches,
                     kept=[sum(each.values()) for each in parts])
    arriving = sum((not stage.first) + (not stage.last) for stage in stages) if degree > 1 else 0
    return parts_at_peak(parts, most) | {"messages": micro_batches * arriving * Shapes(config).residual * FP32}


def _bound(config: Config) -> str:
    """Where the count is a bound and not the number."""
    found = ""
    if config.parallel.pp > 1 and config.parallel.schedule.value not in EXACT:
        found += f"\n{config.parallel.schedule.value}: counted as if all micro-batches of a step were held at once"
    if config.train.precision is Precision.fp16:
        found += "\nfp16: an estimate; fp32 and bf16 are compared with what lives in a real forward pass"
    if config.train.compile:
        found += "\ntrain.compile keeps less than counted here"
    return found


def _ends(numbers: range) -> list[int]:
    """First and last, both included; empty for none."""
    return [numbers[0], numbers[-1]] if numbers else []
