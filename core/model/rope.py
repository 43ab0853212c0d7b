"""Rotary position embedding (Su et al. 2021, "RoFormer"), in the half-rotation layout of Hugging Face's Llama.

Shapes: B micro-batch, S sequence, N heads, D head dim.
"""

from math import pi

import torch
from torch import Tensor

from ...conf.schema import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each pair of dims, [D / 2] fp32, on the CPU so that every device starts from equal bits.

    linear: Chen et al. 2023, "Extending context window via position interpolation"; llama3: Meta's Llama 3.1, which stretches only long
    wavelengths, with a smooth crossing between `rope_original_sequence_length` over the high and over the low factor.
    """
    D = config.hidden_size // config.num_heads
    frequencies = 1.0 / config.rope_theta ** (torch.arange(0, D, 2, dtype=torch.int64, device="cpu").float() / D)
    factor = config.rope_scaling_factor
    if config.rope_scaling == RopeScaling.none:
        return frequencies
    if config.rope_scaling == RopeScaling.linear:
        return frequencies / factor
    low, high = config.rope_low_frequency_factor, config.rope_high_frequency_factor
    turns = config.rope_original_sequence_length / (2 * pi / frequencies)  # full turns within the original context
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: short wavelength, kept; 0: long one, stretched
    return (1.0 - keep) * frequencies / factor + keep * frequencies


def rotation(positions_BS: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every angle, each [B, S, D / 2] fp32."""
    angles_BSD = positions_BS[..., None].float() * frequencies.float()
    return angles_BSD.cos(), angles_BSD.sin()


def rotate(x_BNSD: Tensor, rotation_BSD: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + D / 2]) by its angle, in fp32; the result has the dtype of `x`."""
    cosine, sine = (part[:, None] for part in rotation_BSD)
    first, second = x_BNSD.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x_BNSD.dtype)
