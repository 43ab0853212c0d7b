"""What the layers of one rank send in one step along each axis, from the sizes alone. Pure: imports no torch.

Bytes as in core/traffic.py. Shapes: B micro-batch, S tokens of one rank of the context axis, s those of its residual stream (S / tp under
sequence parallelism), T = B * S, H hidden, N and G query and kv heads of one tensor rank, D head dim, E experts, k choices. A block runs
`entering` where attention or MLP enter the tensor-parallel region, `leaving` where they leave it. Sources: the tensor axis Shoeybi et al.
2019, section 3; the sequence Korthikanti et al. 2022, section 4; ring Liu et al. 2023; Ulysses Jacobs et al. 2023; experts Lepikhin et al.
2020. Not counted: numbers of rows and of choices, which routers exchange, and segment numbers of documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm

from ..conf.schema import Config, ContextAttention, Normalization, Positions, Precision, Recompute, RouterBalance
from ..parallel.stages import Stage
from .expert_rules import has_experts, shared_width
from .stage_plan import held_stages, placement
from .traffic import Sent, add, merged

_FP32 = 4
Part = tuple[str, str, float]  # axis, kind, bytes that leave the rank


@dataclass(frozen=True)
class Sizes:
    """What the rules below count in.

    Args:
        config: of the run.
    """

    config: Config

    @property
    def tokens(self) -> int:
        """T."""
        return self.config.batch.micro_size * self.config.model.sequence_length // self.config.parallel.cp

    @property
    def elements(self) -> int:
        """T * H."""
        return self.tokens * self.config.model.hidden_size

    @property
    def product(self) -> int:
        """Bytes of one element of what a matrix product takes and gives."""
        return _FP32 if self.config.train.precision is Precision.fp32 else 2

    @property
    def sequence_parallel(self) -> bool:
        """Whether the residual stream is cut over the tensor axis."""
        return self.config.parallel.sequence_parallel and self.config.parallel.tp > 1

    @property
    def forwards(self) -> int:
        """Forward passes of a block in one micro-batch."""
        return 2 if self.config.train.recompute is Recompute.full else 1

    @property
    def last_reduction_again(self) -> bool:
        """Whether full recomputation repeats a block's last collective: only dropout behind it needs its result."""
        return self.config.model.dropout > 0


def layer_traffic(config: Config, *, micro_batches: int, pipeline_rank: int = 0) -> Sent:
    """Bytes that one rank's layers send in one step, by axis and kind.

    Args:
        config: of the run; the router's choices, where there are experts, fall evenly on all of them.
        micro_batches: forward and backward passes of one step.
        pipeline_rank: place in the pipeline.
    """
    sizes, stages, found = Sizes(config), held_stages(config.model, config.parallel, pipeline_rank), Sent()
    for axis, kind, sent in (part for stage in stages for part in _micro_batch(sizes, stage, pipeline_rank)):
        add(found, axis, kind, micro_batches * sent)
    return merged([found, _tied(sizes, pipeline_rank)])


def _micro_batch(sizes: Sizes, stage: Stage, pipeline_rank: int) -> Iterator[Part]:
    """Of one micro-batch through one stage, forward and backward."""
    for layer in stage.layers:
        yield from _attention(sizes)
        yield from _context(sizes)
        yield from _experts(sizes) if has_experts(sizes.config.model, layer) else _mlp(sizes)
        yield from _residual(sizes, vectors=_norm_vectors(sizes) * 2)
    if stage.first:
        yield from _leaving(sizes, _FP32)
        if sizes.config.model.positions is Positions.learned:
            yield from _residual(sizes, vectors=sizes.config.model.sequence_length)
    if stage.last:
        yield from _entering(sizes, again=False)
        yield from _residual(sizes, vectors=_norm_vectors(sizes))
        # the largest logit of each token; its sum of exponentials and its target's logit
        yield from _over("tensor", "all_reduce", 3 * sizes.tokens * _FP32, sizes.config.parallel.tp)
    yield from _messages(sizes, stage, pipeline_rank)


def _over(axis: str, kind: str, whole: float, n: int) -> Iterator[Part]:
    """A collective of `whole` bytes over n ranks."""
    if n > 1:
        yield axis, kind, (2 if kind == "all_reduce" else 1) * whole * (n - 1) / n


def _entering(sizes: Sizes, *, again: bool = True) -> Iterator[Part]:
    """Into the tensor-parallel region: identity and all-reduce, or all-gather and reduce-scatter."""
    tp, whole = sizes.config.parallel.tp, sizes.elements * sizes.product
    if sizes.sequence_parallel:
        yield from _over("tensor", "all_gather", whole * (sizes.forwards if again else 1), tp)
        yield from _over("tensor", "reduce_scatter", whole, tp)
    else:
        yield from _over("tensor", "all_reduce", whole, tp)


def _leaving(sizes: Sizes, width: int, *, forwards: int = 1) -> Iterator[Part]:
    """Out of it: all-reduce and identity, or reduce-scatter and all-gather."""
    tp, whole = sizes.config.parallel.tp, sizes.elements * width
    if sizes.sequence_parallel:
        yield from _over("tensor", "reduce_scatter", whole * forwards, tp)
        yield from _over("tensor", "all_gather", whole, tp)
    else:
        yield from _over("tensor", "all_reduce", whole * forwards, tp)


def _residual(sizes: Sizes, *, vectors: float) -> Iterator[Part]:
    """Gradients of so many [H] vectors that every tensor rank applies to its own part of the residual stream."""
    if sizes.sequence_parallel:
        yield from _over("tensor", "all_reduce", vectors * sizes.config.model.hidden_size * _FP32, sizes.config.parallel.tp)


def _norm_vectors(sizes: Sizes) -> int:
    return 2 if sizes.config.model.normalization is Normalization.layernorm else 1


def _attention(sizes: Sizes) -> Iterator[Part]:
    model, tp = sizes.config.model, sizes.config.parallel.tp
    yield from _entering(sizes)
    yield from _leaving(sizes, sizes.product, forwards=sizes.forwards)
    yield from _residual(sizes, vectors=float(model.bias))
    if model.num_kv_heads % tp:  # each kv head on several ranks, whose gradients are summed in one all-reduce of all
        rows = 2 * model.num_kv_heads * (model.hidden_size // model.num_heads)
        yield from _over("tensor", "all_reduce", rows * (model.hidden_size + model.bias) * _FP32, tp)


def _mlp(sizes: Sizes, *, last: bool = True) -> Iterator[Part]:
    again = sizes.forwards if sizes.last_reduction_again or not last else 1
    yield from _entering(sizes)
    yield from _leaving(sizes, sizes.product, forwards=again)
    yield from _residual(sizes, vectors=float(sizes.config.model.bias))


def _context(sizes: Sizes) -> Iterator[Part]:
    """Of one block's attention over the context axis, without dropout on attention weights."""
    config, model, cp = sizes.config, sizes.config.model, sizes.config.parallel.cp
    if cp == 1:
        return
    D = model.hidden_size // model.num_heads
    N, G = model.num_heads // config.parallel.tp, max(1, model.num_kv_heads // config.parallel.tp)
    if config.parallel.context_attention is ContextAttention.ring:
        forwards = 2 if config.train.recompute is not Recompute.none else 1  # messages are no kept results
        keys_and_values = 2 * sizes.tokens * G * D
        # on to the next rank, in each pass; their gradients, in fp32, behind them
        yield "context", "send", (cp - 1) * keys_and_values * ((forwards + 1) * sizes.product + _FP32)
    else:
        there = sizes.tokens * D * (N + 2 * lcm(G, cp))
        back = sizes.tokens * D * N
        yield from _over("context", "all_to_all", (there + back) * (sizes.forwards + 1) * sizes.product, cp)


def _experts(sizes: Sizes) -> Iterator[Part]:
    """Of one block's mixture of experts; every token's choices fall evenly on the expert axis."""
    config, model, parallel = sizes.config, sizes.config.model, sizes.config.parallel
    rows = sizes.tokens * model.experts_per_token
    if sizes.sequence_parallel:  # the router's weight, and the logits of all tokens
        yield from _residual(sizes, vectors=model.num_experts)
        yield from _over("tensor", "all_gather", sizes.tokens * model.num_experts * _FP32 * sizes.forwards, parallel.tp)
    yield from _entering(sizes)
    yield from _over("tensor", "all_reduce", rows * _FP32, parallel.tp)  # gates
    if model.bias:  # of `down`, which the first tensor rank adds
        yield from _over("tensor", "all_reduce", model.num_experts // parallel.ep * model.hidden_size * _FP32, parallel.tp)
    again = sizes.forwards if sizes.last_reduction_again or shared_width(model) else 1
    yield from _leaving(sizes, sizes.product, forwards=again)
    if shared_width(model):
        yield from _mlp(sizes)
    # to the experts and back, in each pass
    passes = sizes.forwards + 1
    yield from _over("expert", "all_to_all", 2 * passes * rows * model.hidden_size * sizes.product, parallel.ep)
    if parallel.cp > 1 and model.router_balance is not RouterBalance.none:
        yield from _over("context", "all_reduce", config.batch.micro_size * model.num_experts * _FP32 * sizes.forwards, parallel.cp)


def _messages(sizes: Sizes, stage: Stage, pipeline_rank: int) -> Iterator[Part]:
    """Hidden states to the stage after, gradients to the stage before, in fp32, where they lie on another rank."""
    config, where = sizes.config, placement(sizes.config.parallel)
    whole = sizes.elements * _FP32 // (config.parallel.tp if sizes.sequence_parallel else 1)
    for neighbour, there_is_one in ((stage.index + 1, not stage.last), (stage.index - 1, not stage.first)):
        if there_is_one and where.owner(neighbour) != pipeline_rank:
            yield "pipeline", "send", float(whole)


def _tied(sizes: Sizes, pipeline_rank: int) -> Sent:
    """A step's gradient from a tied head's copy on the last rank to the embedding on the first, and the new weight back."""
    found, model, where = Sent(), sizes.config.model, placement(sizes.config.parallel)
    first, last = where.owner(0), where.owner(where.num_stages - 1)
    if model.tie_embeddings and first != last and pipeline_rank in (first, last):
        rows = -(-model.vocab_size // sizes.config.parallel.tp)
        add(found, "pipeline_ends", "broadcast" if pipeline_rank == first else "reduce", rows * model.hidden_size * _FP32)
    return found
