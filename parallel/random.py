"""Random numbers as pure functions of a key and a counter: no generator, no state, the same on every layout.

Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64). Output i of a key
is the finaliser of key + (i + 1) * golden gamma, so any element can be drawn alone.

Only exact IEEE operations (add, multiply, divide, square root) in float64 turn bits into normals: no `log` or `cos` of a vendor's
library, so the result does not depend on the device, the vector width or where a chunk ends.
"""

import hashlib
from math import factorial, log, pi, prod, sqrt

import torch
from torch import Tensor

from .partition import ShardSpec

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as signed 64-bit numbers; torch's int64 products wrap around
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_HOST_CHUNK, _DEVICE_CHUNK = 2**14, 2**22  # elements drawn at a time: temporaries stay in the cache, or launches stay few
_QUANTA = 2**16  # dropout compares 16 bits, four to a hash


def stream_key(seed: int, *names: str | int) -> int:
    """A key of 64 bits (signed, as torch's int64) for one named stream of numbers.

    Args:
        seed: the run's seed.
        names: what the stream is for, e.g. a parameter's name.
    """
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def hashed(key: Tensor | int, counter: Tensor) -> Tensor:
    """Output number `counter` of each key's stream: 64 random bits as int64; the shapes broadcast."""
    bits = (counter + 1).mul_(_GAMMA) + key
    for shift, factor in _MIX:
        bits.bitwise_xor_(_shifted(bits, shift)).mul_(factor)
    return bits.bitwise_xor_(_shifted(bits, 31))


def fill_normal(tensor: Tensor, shard: ShardSpec, *, seed: int, name: str, std: float) -> None:
    """Fill a shard in place with its elements of the global tensor, element i of which is std * normal(seed, name, i).

    Args:
        tensor: contiguous local tensor of shape `shard.local_shape`; elements that no piece names become 0.
        shard: which part of the global tensor it is.
        seed, name: the stream; `name` is the parameter's full name.
        std: standard deviation.

    Raises:
        ValueError: the tensor is not the shard's shape.
    """
    if tuple(tensor.shape) != shard.local_shape:
        raise ValueError(f"{name} has local shape {tuple(tensor.shape)}, but its shard says {shard.local_shape}")
    if tensor.is_meta:
        return
    size, key = (shard.shape or (1,))[shard.dim], stream_key(seed, "normal", name)
    outer, inner = prod(shard.shape[:shard.dim]), prod(shard.shape[shard.dim + 1:])
    chunk = _HOST_CHUNK if tensor.device.type == "cpu" else _DEVICE_CHUNK
    with torch.no_grad():
        local = tensor.detach().zero_().view(outer, shard.local_size, inner)
        columns = torch.arange(inner, device=tensor.device)
        for piece in shard.pieces:
            length_step = max(1, min(piece.length, chunk // inner))
            outer_step = max(1, chunk // (inner * piece.length))
            for o in range(0, outer, outer_step):
                rows = torch.arange(o, min(outer, o + outer_step), device=tensor.device)[:, None] * size
                for i in range(0, piece.length, length_step):
                    stop = min(piece.length, i + length_step)
                    places = torch.arange(piece.start + i, piece.start + stop, device=tensor.device)
                    index = (rows + places)[..., None] * inner + columns
                    local[o:o + len(rows), piece.local + i:piece.local + stop] = _normal(hashed(key, index)).mul_(std)


def dropout(x_BSH: Tensor, p: float, *, site_key: int, step: Tensor, samples_B: Tensor, positions_S: Tensor) -> Tensor:
    """Zero elements with probability p and scale the others up; the choice belongs to the element's coordinate, not to the rank.

    `p` is rounded to 1/65536, and the scale is that of the rounded value, so the mean is kept exactly.

    Args:
        x_BSH: [B, S, H], H whole.
        p: in [0, 1); 0 is the identity.
        site_key: `stream_key` of seed, layer and site.
        step: 0-d int64 tensor, the optimizer step.
        samples_B: int64, global sample indices.
        positions_S: int64, positions in the window (not in the document).
    """
    if p == 0.0:
        return x_BSH
    key_BS = hashed(hashed(hashed(site_key, step), samples_B)[:, None], positions_S)
    return drop(x_BSH, p, key_BS)


def attention_dropout(weights_BNSK: Tensor, p: float, *, site_key: int, step: Tensor, samples_B: Tensor, heads_N: Tensor,
                      positions_S: Tensor) -> Tensor:
    """`dropout` of attention weights, whose coordinate is (step, sample, global head, query position, key position).

    Args:
        weights_BNSK: [B, N, S queries, K keys], keys whole.
        p, site_key, step, samples_B: as for `dropout`.
        heads_N: int64, global numbers of this rank's heads.
        positions_S: int64, positions of the queries in the window.
    """
    if p == 0.0:
        return weights_BNSK
    key_BN = hashed(hashed(hashed(site_key, step), samples_B)[:, None], heads_N)
    return drop(weights_BNSK, p, hashed(key_BN[..., None], positions_S))


def drop(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """Dropout of the last dim, each row with its own key: `keys` has the shape of `x` without the last dim."""
    dropped = min(_QUANTA - 1, max(0, round(p * _QUANTA)))
    width = x.shape[-1]
    bits = hashed(keys[..., None], torch.arange(-(-width // 4), device=x.device)).view(torch.int16)[..., :width]
    return torch.where(bits >= dropped - _QUANTA // 2, x * (_QUANTA / (_QUANTA - dropped)), 0.0)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Logical shift right: torch's is arithmetic."""
    return (bits >> count).bitwise_and_(2 ** (64 - count) - 1)


def _normal(bits: Tensor) -> Tensor:
    """A standard normal in float64 for each 64 bits (Box and Muller 1958): radius from the high half, angle and sign from the low."""
    uniform = _shifted(bits, 32).double().add_(0.5).mul_(2.0**-32)
    radius = _log(uniform).mul_(-2.0).sqrt_()
    quarter = bits.bitwise_and(2**31 - 1).double().add_(0.5).mul_(2.0**-31)
    sign = bits.bitwise_right_shift_(31).bitwise_and_(1).double().mul_(-2.0).add_(1.0)
    return _sine_of_quarters(quarter).mul_(radius).mul_(sign)


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of positive numbers: 2 atanh((m - c) / (m + c)) + log(c) + exponent * log(2), with c = sqrt(1/2); error < 1e-13."""
    mantissa, exponent = torch.frexp(x)
    center = sqrt(0.5)
    ratio = (mantissa - center).div_(mantissa.add_(center))
    square = ratio * ratio
    series = torch.full_like(x, 1 / 17)
    for odd in range(15, 0, -2):
        series.mul_(square).add_(1 / odd)
    return series.mul_(ratio).mul_(2.0).add_(log(center)).add_(exponent.double().mul_(log(2.0)))


def _sine_of_quarters(x: Tensor) -> Tensor:
    """sin(x * pi / 2) for x in [0, 1]: its Taylor series up to the 17th power; error < 1e-13."""
    square = x * x
    series = torch.full_like(x, _taylor(17))
    for odd in range(15, 0, -2):
        series.mul_(square).add_(_taylor(odd))
    return series.mul_(x)


def _taylor(odd: int) -> float:
    return (-1) ** (odd // 2) * (pi / 2) ** odd / factorial(odd)
