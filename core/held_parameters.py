"""How many elements of which parameter lie on a rank, from the sizes alone. Pure: a login node plans thousands of ranks with it.

Ranks at the same place of the pipeline hold equally many: the tensor and expert axes cut evenly, and the vocabulary is padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..conf.schema import Activation, ModelConfig, Normalization, Positions
from ..parallel.stages import Stage
from .expert_rules import expert_width, has_experts, shared_width


@dataclass(frozen=True)
class HeldParameter:
    """One parameter, or a part of it, as it lies on a rank.

    Args:
        name: of the whole model.
        size: elements here, padding included.
        matrix: it has two dims in the whole model: such decay, and norms and biases do not.
        expert: it belongs to experts: equal on fewer ranks than the dense parameters.
        copy: another rank holds the original: a tied head whose embedding lies on another stage.
    """

    name: str
    size: int
    matrix: bool = True
    expert: bool = False
    copy: bool = False


def held_parameters(model: ModelConfig, stages: Sequence[Stage], *, tp: int = 1, ep: int = 1) -> list[HeldParameter]:
    """The parameters of some stages on one rank, under the names that checkpoints use.

    Args:
        model: sizes; they fit the degrees (core/combine.py).
        stages: those of one place of the pipeline.
        tp, ep: degrees.
    """
    H, rows = model.hidden_size, -(-model.vocab_size // tp)
    found: list[HeldParameter] = []
    for stage in stages:
        if stage.first:
            found.append(HeldParameter("embedding.tokens.weight", rows * H))
            if model.positions == Positions.learned:
                found.append(HeldParameter("embedding.positions.weight", model.sequence_length * H))
        for layer in stage.layers:
            found += _block(model, layer, tp=tp, ep=ep)
        if stage.last:
            found += _norm(model, "final_norm")
            if not model.tie_embeddings:
                found.append(HeldParameter("head.weight", rows * H))
            elif not any(each.first for each in stages):
                found.append(HeldParameter("head.weight", rows * H, copy=True))
    return found


def _block(model: ModelConfig, layer: int, *, tp: int, ep: int) -> Iterator[HeldParameter]:
    prefix, H = f"blocks.{layer}", model.hidden_size
    q = model.num_heads // tp * (H // model.num_heads)
    yield from _norm(model, f"{prefix}.attention_norm")
    yield from _qkv(model, f"{prefix}.attention.qkv", tp=tp)
    yield from _linear(f"{prefix}.attention.output", H, q, bias=H if model.bias else 0)
    yield from _norm(model, f"{prefix}.mlp_norm")
    if not has_experts(model, layer):
        yield from _mlp(model, f"{prefix}.mlp", model.ffn_hidden_size // tp)
        return
    yield HeldParameter(f"{prefix}.mlp.router.weight", model.num_experts * H)
    here = model.num_experts // ep
    for each in _mlp(model, f"{prefix}.mlp.experts", expert_width(model) // tp):
        # an expert's bias of the way down is a row of a matrix of all experts
        yield HeldParameter(each.name, here * each.size, matrix=each.matrix or each.name.endswith("down.bias"), expert=True)
    if shared_width(model):
        yield from _mlp(model, f"{prefix}.mlp.shared", shared_width(model) // tp)


def _qkv(model: ModelConfig, prefix: str, *, tp: int) -> Iterator[HeldParameter]:
    head_dim = model.hidden_size // model.num_heads
    q, kv = model.num_heads // tp * head_dim, 2 * max(1, model.num_kv_heads // tp) * head_dim
    parts = (q + kv,) if model.num_kv_heads % tp == 0 else (q, kv)  # a kv head that several ranks share is a tensor of its own
    for rows in parts:
        yield HeldParameter(f"{prefix}.weight", rows * model.hidden_size)
    for rows in parts if model.bias else ():
        yield HeldParameter(f"{prefix}.bias", rows, matrix=False)


def _mlp(model: ModelConfig, prefix: str, width: int) -> Iterator[HeldParameter]:
    up = width * (2 if model.activation == Activation.swiglu else 1)
    yield from _linear(f"{prefix}.up", up, model.hidden_size, bias=up if model.bias else 0)
    yield from _linear(f"{prefix}.down", model.hidden_size, width, bias=model.hidden_size if model.bias else 0)


def _linear(prefix: str, rows: int, columns: int, *, bias: int) -> Iterator[HeldParameter]:
    yield HeldParameter(f"{prefix}.weight", rows * columns)
    if bias:
        yield HeldParameter(f"{prefix}.bias", bias, matrix=False)


def _norm(model: ModelConfig, prefix: str) -> Iterator[HeldParameter]:
    yield HeldParameter(f"{prefix}.weight", model.hidden_size, matrix=False)
    if model.normalization == Normalization.layernorm:
        yield HeldParameter(f"{prefix}.bias", model.hidden_size, matrix=False)
