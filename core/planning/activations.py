"""Bytes of activations that autograd keeps of one micro-batch until its backward pass, by part. Pure: imports no torch.

Counted tensor by tensor as torch 2.13 saves them, each piece of memory once; tests compare with what lives after a real forward pass.
After Korthikanti et al. 2022, "Reducing activation recomputation in large transformer models", section 4, which counts the same of
Megatron's kernels. Not for `train.compile`, which keeps less.
"""

from collections.abc import Iterator, Mapping

from ...conf.schema import Config, Normalization, Recompute
from ...parallel.stages import Stage
from ..expert_rules import has_experts
from .kept_attention import attention_core, selected
from .kept_mlp import collectives, dense, dense_selected, dense_weights, expert_weights, experts, experts_selected
from .shapes import FP32, INT64, Shapes

Part = tuple[str, int]


def activation_bytes(config: Config, stage: Stage, *, on_cpu: bool = False) -> Mapping[str, int]:
    """What one stage keeps of one micro-batch; hidden states that came from the stage before lie in its buffers, not here.

    Args:
        config: of the run.
        stage: of the pipeline, or the whole model.
        on_cpu: torch's CPU kernels, which keep a little more.

    Returns:
        By part: residual, norms, attention, mlp, weights (copies in bf16), shared, head.
    """
    sizes = Shapes(config, on_cpu)
    found = dict.fromkeys(("residual", "norms", "attention", "mlp", "weights", "shared", "head"), 0)
    for part, count in _stage(sizes, stage):
        found[part] += count
    return found


def _stage(sizes: Shapes, stage: Stage) -> Iterator[Part]:
    whole = sizes.recompute is Recompute.none
    streams = len(stage.layers) * (2 if whole else 1) + int(stage.first)
    yield "residual", streams * sizes.residual * FP32
    yield from _shared(sizes)
    if stage.first:
        yield "shared", sizes.T * (INT64 + 1) if sizes.config.parallel.tp > 1 else 0
        yield "norms", sizes.residual if sizes.config.model.dropout else 0
    for layer in stage.layers:
        if whole:
            yield from _block(sizes, layer)
        elif sizes.recompute is Recompute.selective:
            yield from _selected(sizes, layer)
    if stage.last:
        yield from _head(sizes)


def _shared(sizes: Shapes) -> Iterator[Part]:
    """Rotary angles; and what recomputation will need again."""
    again = sizes.recompute is not Recompute.none
    if sizes.rope:
        yield "shared", sizes.T * sizes.D * FP32
    if not sizes.masked:
        return
    if sizes.rings:
        yield "shared", sizes.B * sizes.W * 4 if again or not sizes.explicit else 0
        yield "shared", sizes.T * sizes.W if again and sizes.explicit else 0
    elif again:
        yield "shared", sizes.B * sizes.W * sizes.W


def _norm(sizes: Shapes) -> int:
    """Statistics of one norm; the CPU's RMSNorm is made of small operators, and keeps the normalised input too."""
    tokens = sizes.residual // sizes.H
    if sizes.config.model.normalization is Normalization.layernorm:
        return 2 * tokens * FP32 + (2 * sizes.H * FP32 if sizes.sequence_parallel else 0)
    return tokens * FP32 + (sizes.residual * FP32 if sizes.on_cpu else 0)


def _entering(sizes: Shapes) -> int:
    """The normed stream as a product takes it: gathered under sequence parallelism."""
    return (sizes.T * sizes.H if sizes.sequence_parallel else sizes.residual) * sizes.product


def _block(sizes: Shapes, layer: int) -> Iterator[Part]:
    model, tp = sizes.config.model, sizes.config.parallel.tp
    yield "norms", 2 * (_norm(sizes) + (sizes.residual if model.dropout else 0))  # and which elements dropout zeroed
    yield "attention", _entering(sizes) + attention_core(sizes)
    columns = (sizes.N + 2 * sizes.G) * sizes.D
    if sizes.casts:
        yield "weights", (columns + sizes.N * sizes.D) * sizes.H * 2
    elif model.num_kv_heads % tp:  # shared kv heads: their rows are joined to the queries' at each use
        yield "weights", columns * sizes.H * FP32
    if not has_experts(model, layer):
        yield "mlp", _entering(sizes) + dense(sizes, model.ffn_hidden_size // tp)
        yield "weights", dense_weights(sizes, model.ffn_hidden_size // tp)
        return
    yield "mlp", sizes.residual * FP32 + experts(sizes)
    yield "weights", expert_weights(sizes)
    if width := sizes.shared_width // tp:
        apart = sizes.casts or sizes.sequence_parallel
        yield "mlp", dense(sizes, width) + (_entering(sizes) if apart else 0)
        yield "weights", dense_weights(sizes, width)


def _selected(sizes: Shapes, layer: int) -> Iterator[Part]:
    """Products, fused attention and collectives: what parallel/recompute.py names."""
    model, tp = sizes.config.model, sizes.config.parallel.tp
    products = (sizes.q + 2 * sizes.kv + sizes.T * sizes.H) * sizes.product
    yield "attention", products + selected(sizes) + collectives(sizes)
    if not has_experts(model, layer):
        yield "mlp", dense_selected(sizes, model.ffn_hidden_size // tp)
        return
    yield "mlp", experts_selected(sizes)
    if sizes.shared_width:
        yield "mlp", dense_selected(sizes, sizes.shared_width // tp)


def _head(sizes: Shapes) -> Iterator[Part]:
    columns = -(-sizes.config.model.vocab_size // sizes.config.parallel.tp)
    yield "norms", _norm(sizes)
    yield "head", _entering(sizes) + sizes.T * columns * sizes.product + sizes.T * FP32
    yield "weights", columns * sizes.H * 2 if sizes.casts else 0
