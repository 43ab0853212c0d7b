"""Floating-point operations and parameters of a model, counted from its sizes. Pure arithmetic: imports no torch."""

from collections.abc import Mapping

from ..conf.schema import Activation, ModelConfig, Normalization, Positions

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
        attention.qkv, attention.scores (both products with the S x S matrix), attention.output, mlp, head.
    """
    H, tokens = config.hidden_size, samples * sequence_length
    q, kv = _widths(config)
    pairs = samples * (sequence_length * (sequence_length + 1) // 2 if causal else sequence_length**2)
    products = 3 if config.activation == Activation.swiglu else 2
    L = config.num_layers
    return {
        "attention.qkv": L * 2 * tokens * H * (q + 2 * kv),
        "attention.scores": L * 2 * 2 * pairs * q,
        "attention.output": L * 2 * tokens * q * H,
        "mlp": L * 2 * tokens * H * config.ffn_hidden_size * products,
        "head": 2 * tokens * H * config.vocab_size,
    }


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
    H, F, L = config.hidden_size, config.ffn_hidden_size, config.num_layers
    q, kv = _widths(config)
    up = F * (2 if config.activation == Activation.swiglu else 1)
    attention = H * (q + 2 * kv) + q * H + (q + 2 * kv + H) * config.bias
    mlp = H * up + F * H + (up + H) * config.bias
    norm = H * (2 if config.normalization == Normalization.layernorm else 1)
    return {
        "embedding.tokens": config.vocab_size * H,
        "embedding.positions": config.sequence_length * H if config.positions == Positions.learned else 0,
        "attention": L * attention,
        "mlp": L * mlp,
        "norms": (2 * L + 1) * norm,
        "head": 0 if config.tie_embeddings else config.vocab_size * H,
    }


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Width of all queries, and of all keys."""
    head_dim = config.hidden_size // config.num_heads
    return config.num_heads * head_dim, config.num_kv_heads * head_dim
