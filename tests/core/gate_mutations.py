"""What a layout could lack: each takes one piece of the communication, or of the arithmetic between ranks, away."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hexareme.core import inputs
from hexareme.core.engine import axes, build, engine, norm, routers, schedules, tied
from hexareme.core.model import balance, experts, transformer
from hexareme.core.proof.gate import FOUR, Entry
from hexareme.parallel import collectives, cross_entropy, dispatch, embedding, heads, linear, ring_attention, ulysses
from torch import Tensor

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """One thing taken away.

    Args:
        name: what.
        entry: a layout that has it.
        apply: takes it away.
    """

    name: str
    entry: Entry
    apply: Callable[[Patch], None]


def nothing_sent(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def own_part(tensor: Tensor, group: Any, dim: int = 1) -> Tensor:
    return collectives.own_slice(tensor, group, dim).contiguous()


def own_repeated(tensor: Tensor, group: Any, dim: int = 1) -> Tensor:
    return torch.cat([tensor] * group.size(), dim=dim)


def sets(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def forward_of(function: type, substitute: Callable[..., Tensor]) -> Callable[[Patch], None]:
    """The forward pass of an autograd node without its collective; its backward pass stays."""
    def forward(ctx: Any, tensor: Tensor, group: Any, *_: Any) -> Tensor:
        ctx.group = group
        return substitute(tensor, group).clone()

    return lambda patch: patch.setattr(function, "forward", staticmethod(forward))


def backward_of(function: type, substitute: Callable[..., Tensor]) -> Callable[[Patch], None]:
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return substitute(gradients[0], getattr(ctx, "group", None)), None

    return lambda patch: patch.setattr(function, "backward", staticmethod(backward))


def without_maximum(tensor: Tensor, group: Any, operation: str = "sum") -> Tensor:
    return tensor if operation == "max" else collectives.all_reduce(tensor, group, operation)


def without_sum(tensor: Tensor, group: Any, operation: str = "sum") -> Tensor:
    return tensor if operation == "sum" else collectives.all_reduce(tensor, group, operation)


def all_experts_over_all_data(patch: Patch) -> None:
    right = build.announce_experts
    patch.setattr(build, "announce_experts",
                  lambda model, placed, context: right(model, placed, replace(context, expert_data=context.data)))


def every_rank_reduces_alone(patch: Patch) -> None:
    right = build.deepspeed_settings
    patch.setattr(build, "deepspeed_settings", lambda *sections, dp, **rest: right(*sections, dp=1, **rest))
    patch.setattr(axes.ModelParallelUnit, "get_data_parallel_group", lambda self: self._context.tensor)
    patch.setattr(axes.ModelParallelUnit, "get_data_parallel_world_size", lambda self: 1)
    patch.setattr(axes.ModelParallelUnit, "get_data_parallel_rank", lambda self: 0)


def neighbouring_chunks(patch: Patch) -> None:
    """The window is cut into neighbours, while the ring believes in the zig-zag."""
    right = inputs.chunks
    patch.setattr(inputs, "chunks", lambda length, *, cp, rank, kind: right(length, cp=cp, rank=rank, kind="ulysses"))


def ring_takes_the_wrong_half(patch: Patch) -> None:
    right = ring_attention.ring_block

    def wrong(rank: int, source: int, length: int) -> Any:
        block = right(rank, source, length)
        return replace(block, keys=slice(length // 2, length)) if source < rank else block

    patch.setattr(ring_attention, "ring_block", wrong)


def doubled_scale(patch: Patch) -> None:
    right = schedules.StageRunner.run
    patch.setattr(schedules.StageRunner, "run", lambda self, micros, scale: right(self, micros, 2 * scale))


def doubled_auxiliary_scale(patch: Patch) -> None:
    right = routers.set_auxiliary_scale
    patch.setattr(routers, "set_auxiliary_scale", lambda model, scale: right(model, 2 * scale))


def places_of_the_first_shard(tensor: Tensor, group: Any, *, sequence_parallel: bool, dim: int) -> Tensor:
    return tensor.narrow(dim, 0, tensor.shape[dim] // group.size()) if sequence_parallel else tensor


TP = Entry("gpt2", 2, "tp=2 zero=1 sequence_parallel=false")
SP = Entry("gpt2", 2, "tp=2 zero=1")
REPEATED_HEADS = Entry("llama", 4, "tp=4 zero=1")
DP = Entry("gpt2", 2, "zero=1")
PP = Entry("gpt2", 2, f"pp=2 schedule=1f1b {FOUR}")
TIED_V = Entry("gpt2", 2, f"pp=2 schedule=zbv {FOUR}")
RING = Entry("gpt2", 2, "cp=2 zero=1")
ULYSSES = Entry("gpt2", 2, "cp=2 zero=1 context_attention=ulysses")
EP = Entry("mixtral", 2, "ep=2 zero=1")
TP_EXPERTS = Entry("mixtral", 2, "tp=2 zero=1")
CP_EXPERTS = Entry("mixtral", 2, "cp=2 zero=1 model.router_balance_coefficient=0.1")

MUTATIONS = (
    # every all-reduce of the tensor axis
    Mutation("all-reduce after a row-parallel product", TP, sets(linear, "leave_tensor_region", nothing_sent)),
    Mutation("all-reduce after the embedding", TP, sets(embedding, "leave_tensor_region", nothing_sent)),
    Mutation("all-reduce of the gradient before a column-parallel product", TP, backward_of(collectives._Copy, nothing_sent)),
    Mutation("all-reduce of the largest logit", TP, sets(cross_entropy, "all_reduce", without_maximum)),
    Mutation("all-reduce of the exponentials and target logits", TP, sets(cross_entropy, "all_reduce", without_sum)),
    Mutation("sum over the ranks that share a kv head", REPEATED_HEADS, sets(heads, "all_reduce", nothing_sent)),
    # sequence parallelism
    Mutation("gather of the sequence", SP, forward_of(collectives._Gather, own_repeated)),
    Mutation("reduce-scatter of the gradient of the sequence", SP, backward_of(collectives._Gather, own_part)),
    Mutation("reduce-scatter of the sequence", SP, forward_of(collectives._ReduceScatter, own_part)),
    Mutation("gather of the gradient of a part of the sequence", SP, backward_of(collectives._ReduceScatter, own_repeated)),
    Mutation("sum of the gradients of norms over the parts of the sequence", SP, sets(collectives, "residual_parameter", nothing_sent)),
    Mutation("places of the part of the sequence, for dropout", SP, sets(transformer, "residual_slice", places_of_the_first_shard)),
    # what is counted and scaled
    Mutation("global count of tokens", DP,
             sets(engine.Engine, "_global_sum", staticmethod(lambda value, group: float(value) * group.size()))),
    Mutation("reduction of gradients over the data axis", DP, every_rank_reduces_alone),
    Mutation("one of the equal copies counts in the norm", TP, sets(norm, "counted", lambda placed, context: not placed.copy)),
    Mutation("the copy mark of a repeated kv head", REPEATED_HEADS,
             sets(norm, "counted", lambda placed, context: not placed.shard.replicated or context.tensor.rank() == 0)),
    # the pipeline
    Mutation("sum of the tied gradients", PP, sets(tied.TiedEnds, "sum_gradients", lambda self: None)),
    Mutation("the new weight of a tied copy", PP, sets(tied.TiedEnds, "spread", lambda self: None)),
    Mutation("one parameter for both ends of a V", TIED_V, sets(build, "share_ends", lambda stages: None)),
    Mutation("the scale of the loss under a schedule", PP, doubled_scale),
    # the context axis
    Mutation("zig-zag order of the window", RING, neighbouring_chunks),
    Mutation("zig-zag order in the ring", RING, ring_takes_the_wrong_half),
    Mutation("exchange of heads for tokens", ULYSSES, sets(ulysses, "_exchanged", nothing_sent)),
    Mutation("reduction of gradients over the context axis", RING, every_rank_reduces_alone),
    # experts
    Mutation("the group of the experts' gradients", EP, all_experts_over_all_data),
    Mutation("the way of tokens to their experts", EP, sets(dispatch, "all_to_all", nothing_sent)),
    Mutation("sum of the gates' gradients over the tensor axis", TP_EXPERTS, sets(experts, "copy_to_tensor_axis", nothing_sent)),
    Mutation("load of an expert over the context axis", CP_EXPERTS, sets(balance, "all_reduce", nothing_sent)),
    Mutation("the scale of the auxiliary losses", EP, doubled_auxiliary_scale),
)
# Those that issue 3 names, one of each kind: run by `make test`.
QUICK = ("all-reduce after a row-parallel product", "reduce-scatter of the gradient of the sequence", "the copy mark of a repeated kv head",
         "sum of the tied gradients", "the scale of the loss under a schedule", "zig-zag order of the window",
         "the group of the experts' gradients")
