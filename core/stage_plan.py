"""Which stage of a pipeline holds which blocks: as the config says, or balanced by cost. Pure: imports no torch."""

from ..conf.schema import LayoutConfig, ModelConfig
from ..parallel.stages import Placement, Stage, balanced, stages_of
from .flops import block_flops, forward_flops


def placement(parallel: LayoutConfig) -> Placement:
    """Which rank of the pipeline holds which stages; a model that is not cut is one stage under every schedule."""
    if parallel.pp == 1:
        return Placement(1)
    return Placement.of(parallel.schedule.value, pp=parallel.pp, virtual_stages=parallel.virtual_stages)


def stage_plan(model: ModelConfig, parallel: LayoutConfig) -> list[Stage]:
    """The stages of a run, first to last; one for a model that is not cut.

    Raises:
        ValueError: `parallel.stage_layers` is no such cut, or there are more stages than blocks.
    """
    if parallel.pp == 1:
        return [Stage.whole(model.num_layers)]
    stages, chosen = placement(parallel).num_stages, parallel.stage_layers
    if not chosen:
        embedding, blocks, head = stage_costs(model)
        return stages_of(balanced(blocks, stages, first=embedding, last=head))
    if len(chosen) != stages or sum(chosen) != model.num_layers or min(chosen) < 1:
        raise ValueError(f"parallel.stage_layers={list(chosen)} must be {stages} numbers of at least 1 that add up to "
                         f"model.num_layers={model.num_layers}; leave it out, and the stages are balanced by cost")
    return stages_of(chosen)


def held_stages(model: ModelConfig, parallel: LayoutConfig, rank: int) -> list[Stage]:
    """The stages of one rank of the pipeline, ascending; errors as `stage_plan`."""
    plan = stage_plan(model, parallel)
    return plan if parallel.pp == 1 else [plan[index] for index in placement(parallel).held_by(rank)]


def stage_costs(model: ModelConfig) -> tuple[int, list[int], int]:
    """Operations of a forward pass over one sample: of the embedding, of each block, of the head.

    The backward pass takes the same multiple of each, so it does not change the balance. A lookup multiplies nothing; it is counted as
    one addition for each number that it moves.
    """
    S = model.sequence_length
    blocks = [sum(block_flops(model, layer, samples=1, sequence_length=S).values()) for layer in range(model.num_layers)]
    return S * model.hidden_size, blocks, forward_flops(model, samples=1, sequence_length=S)["head"]
