"""Floating-point operations and parameters of a model, counted from its sizes. Pure arithmetic: imports no torch."""

from collections.abc import Mapping

from ..conf.schema import Activation, ModelConfig, Normalization, Positions
from .expert_rules import expert_layers, expert_width, has_experts, shared_width

_BACKWARD = 2  # a product's backward pass is two products of the same size: for its input and for its weight
_TERA = 1e12

# dense matrix products of one device, in TFLOP/s: (bf16 and fp16, fp32 without TF32), from the vendors' data sheets; the first name that
# occurs in the device's own name decides
_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("A100", 312.0, 19.5),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.4, 66.9),
    ("H200 NVL", 835.0, 60.0),
    ("H200", 989.4, 66.9),
    ("B200", 2250.0, 75.0),
    ("MI300X", 1307.4, 163.4),
)


def forward_flops(config: ModelConfig, *, samples: int, sequence_length: int, causal: bool = True) -> Mapping[str, int]:
    """Operations of one forward pass by layer type; a multiply-add is two. Norms, activations and softmax are left out, as is usual.

    Args:
        config: sizes.
        samples: sequences.
        sequence_length: tokens of each.
        causal: count the query-key pairs that a causal mask leaves, S (S + 1) / 2; False: all S^2, as a kernel without a mask computes.

    Returns:
        attention.qkv, attention.scores (both products with the S x S matrix), attention.output, mlp, router, experts, shared_experts, head.
    """
    total = dict.fromkeys(("attention.qkv", "attention.scores", "attention.output", "mlp", "router", "experts", "shared_experts"), 0)
    for layer in range(config.num_layers):
        for name, count in block_flops(config, layer, samples=samples, sequence_length=sequence_length, causal=causal).items():
            total[name] += count
    return total | {"head": 2 * samples * sequence_length * config.hidden_size * config.vocab_size}


def block_flops(config: ModelConfig, layer: int, *, samples: int, sequence_length: int, causal: bool = True) -> Mapping[str, int]:
    """Operations of one block's forward pass by layer type, as `forward_flops` counts them; of its experts those that a token passes
    (none dropped)."""
    H, tokens = config.hidden_size, samples * sequence_length
    q, kv = _widths(config)
    pairs = samples * (sequence_length * (sequence_length + 1) // 2 if causal else sequence_length**2)
    column = 2 * tokens * H * (3 if config.activation == Activation.swiglu else 2)  # for each feature inside an MLP
    counts = {"attention.qkv": 2 * tokens * H * (q + 2 * kv), "attention.scores": 2 * 2 * pairs * q, "attention.output": 2 * tokens * q * H}
    if not has_experts(config, layer):
        return counts | {"mlp": column * config.ffn_hidden_size}
    return counts | {"router": 2 * tokens * H * config.num_experts, "experts": column * config.experts_per_token * expert_width(config),
                     "shared_experts": column * shared_width(config)}


def step_flops(config: ModelConfig, *, samples: int) -> Mapping[str, int]:
    """Operations of forward and backward pass over `samples` full sequences, by layer type; what recomputation repeats is not counted."""
    forward = forward_flops(config, samples=samples, sequence_length=config.sequence_length)
    return {name: (1 + _BACKWARD) * count for name, count in forward.items()}


def model_flops_per_token(config: ModelConfig) -> float:
    """Operations that training on one token takes, forward and backward, averaged over a full sequence with causal attention.

    Model FLOPs as in Chowdhery et al. 2022 (PaLM), appendix B, but with the causal half of the attention matrix only.
    """
    return sum(step_flops(config, samples=1).values()) / config.sequence_length


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak of dense matrix products of one device, in FLOP/s; None where it is not known.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        precision: fp32, bf16 or fp16.
    """
    for name, half, single in _PEAKS:
        if name.lower() in device_name.lower():
            return (single if precision == "fp32" else half) * _TERA
    return None


def parameter_count(config: ModelConfig) -> Mapping[str, int]:
    """Parameters of the whole model by layer type; a tied head has none of its own."""
    H, L, E = config.hidden_size, config.num_layers, config.num_experts
    q, kv = _widths(config)
    attention = H * (q + 2 * kv) + q * H + (q + 2 * kv + H) * config.bias
    sparse = len(expert_layers(config))
    norm = H * (2 if config.normalization == Normalization.layernorm else 1)
    return {
        "embedding.tokens": config.vocab_size * H,
        "embedding.positions": config.sequence_length * H if config.positions == Positions.learned else 0,
        "attention": L * attention,
        "mlp": (L - sparse) * _mlp_parameters(config, config.ffn_hidden_size),
        "router": sparse * E * H,
        "experts": sparse * E * _mlp_parameters(config, expert_width(config)),
        "shared_experts": sparse * _mlp_parameters(config, shared_width(config)) if shared_width(config) else 0,
        "norms": (2 * L + 1) * norm,
        "head": 0 if config.tie_embeddings else config.vocab_size * H,
    }


def active_parameter_count(config: ModelConfig) -> int:
    """Parameters that one token passes: all but the experts that it is not sent to."""
    counts = parameter_count(config)
    idle = counts["experts"] * (config.num_experts - config.experts_per_token) // config.num_experts if config.num_experts else 0
    return sum(counts.values()) - idle


def _mlp_parameters(config: ModelConfig, width: int) -> int:
    """Of one MLP or expert so many features wide."""
    H, up = config.hidden_size, width * (2 if config.activation == Activation.swiglu else 1)
    return H * up + width * H + (up + H) * config.bias


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Width of all queries, and of all keys."""
    head_dim = config.hidden_size // config.num_heads
    return config.num_heads * head_dim, config.num_kv_heads * head_dim
