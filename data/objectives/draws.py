"""Random numbers without a state: each is a hash of the seed, the sample's number and a counter. D segments."""

import numpy as np

from ..order.permutation import MASK, mix, mix_many

STREAM = 0x6F626A6563746976  # "objectiv": tells these numbers apart from those of the order, which has the same seed


def keys_of(samples_D: np.ndarray, begins_D: np.ndarray, *, seed: int) -> np.ndarray:
    """A key for each segment, of nothing but the seed, its sample and its place in it.

    Args:
        samples_D: int64, global number of the sample that each segment lies in.
        begins_D: int64, its first place in it.
        seed: of the run.

    Returns:
        uint64 (D,).
    """
    base = np.uint64(mix(mix(seed) ^ STREAM))
    return mix_many(mix_many(base + samples_D.astype(np.uint64)) + begins_D.astype(np.uint64))


def draw(keys: np.ndarray, counter: int) -> np.ndarray:
    """The draw `counter` of each key: uint64, uniform.

    Args:
        keys: uint64.
        counter: which one, from 0.
    """
    return mix_many(keys ^ np.uint64(mix(counter) & MASK))


def chances(keys: np.ndarray, counter: int) -> np.ndarray:
    """The draw `counter` of each key as float64 in [0, 1)."""
    return (draw(keys, counter) >> np.uint64(11)) * 2.0**-53


def below(keys: np.ndarray, counter: int, sizes: np.ndarray) -> np.ndarray:
    """The draw `counter` of each key as int64 in [0, size), each less than 2^-32 from uniform.

    Args:
        keys: uint64.
        counter: which one.
        sizes: 1 .. 2^32.
    """
    return (((draw(keys, counter) >> np.uint64(32)) * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
