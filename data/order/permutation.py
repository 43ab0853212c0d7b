"""The order of the training samples as a pure function: no index is built, nothing is stored, any sample is found in microseconds.

The token stream is read as a circle. Each epoch cuts it, from another starting point, into n = num_tokens // sequence_length windows, and
visits them in another order. A window at p has the inputs p .. p + S - 1 and the targets p + 1 .. p + S. So within an epoch no token is a
target twice, and all but num_tokens % sequence_length of them, another few each epoch, are targets once.
"""

from math import isqrt

import numpy as np

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: SplitMix64's increment
ROUNDS = 8


def window_start(sample: int, *, seed: int, num_tokens: int, sequence_length: int, stream: int = 0) -> int:
    """Position of the first input token of a sample; its window of sequence_length + 1 tokens may wrap around the end.

    Args:
        sample: global number of the sample, from 0 over all epochs.
        seed: of the run, 0 .. 2^63 - 1.
        num_tokens: of the token file; more than sequence_length.
        sequence_length: tokens of one sample.
        stream: tells apart several sources of one run.
    """
    assert sample >= 0 and num_tokens > sequence_length > 0, (sample, num_tokens, sequence_length)
    windows = num_tokens // sequence_length
    epoch, index = divmod(sample, windows)
    key = mix(mix(mix(seed) + stream) + epoch)
    offset = (mix(mix(key)) * num_tokens) >> 64  # uniform in [0, num_tokens)
    return (offset + permute(index, windows, key) * sequence_length) % num_tokens


def window_starts(samples: np.ndarray, *, seed: int, num_tokens: int, sequence_length: int, stream: int = 0) -> np.ndarray:
    """`window_start` of many samples at once, bit for bit.

    Args:
        samples: integers (B,), global numbers of samples, 0 .. 2^63 - 1.
        seed, num_tokens, sequence_length, stream: as `window_start`; num_tokens is at most 2^63.

    Returns:
        int64 (B,).
    """
    assert 2**63 >= num_tokens > sequence_length > 0, (num_tokens, sequence_length)
    windows = num_tokens // sequence_length
    epochs_B, indices_B = np.divmod(np.asarray(samples).astype(np.uint64), np.uint64(windows))
    epochs_E, places_B = np.unique(epochs_B, return_inverse=True)  # one or two, but for a tiny corpus
    base = mix(mix(seed) + stream)
    keys = [mix(base + epoch) for epoch in epochs_E.tolist()]
    offsets_E = np.array([(mix(mix(key)) * num_tokens) >> 64 for key in keys], dtype=np.uint64)  # the product has 128 bits
    windows_B = permute_many(indices_B, windows, np.array(keys, dtype=np.uint64)[places_B])
    # both terms are below num_tokens, so that the sum stays below 2**64
    starts_B = (offsets_E[places_B] + windows_B * np.uint64(sequence_length)) % np.uint64(num_tokens)
    return starts_B.astype(np.int64)


def permute(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of 0 .. size - 1 sends `index`, in constant time and memory.

    A Feistel network on Z_a x Z_b with a*b just above `size`, walked along its cycle until the value is below `size` (Black and Rogaway,
    "Ciphers with arbitrary finite domains", CT-RSA 2002, sections 4 and 5); adding modulo a and b keeps the walk to about one step.
    """
    rows = ceil_sqrt(size)
    columns = -(-size // rows)
    while True:
        row, column = divmod(index, columns)
        round_key = key
        for _ in range(ROUNDS // 2):
            row = (row + mix(round_key + column)) % rows
            column = (column + mix(round_key + GOLDEN + row)) % columns
            round_key += 2 * GOLDEN
        index = row * columns + column
        if index < size:
            return index


def permute_many(indices: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """`permute` of many indices, each with its own key, bit for bit.

    Args:
        indices: uint64 (B,), below size.
        size: 1 .. 2^63.
        keys: uint64 (B,).

    Returns:
        uint64 (B,).
    """
    assert 1 <= size <= 2**63, size
    side = ceil_sqrt(size)
    rows, columns = np.uint64(side), np.uint64(-(-size // side))
    golden, step = np.uint64(GOLDEN), np.uint64(2 * GOLDEN & MASK)
    images, walking = indices.astype(np.uint64), np.arange(len(indices))
    while True:
        row, column = np.divmod(images[walking], columns)
        round_key = keys[walking].copy()
        for _ in range(ROUNDS // 2):
            # the hash is reduced first: row + hash would pass 2**64, where the scalar's does not wrap
            row = (row + mix_many(round_key + column) % rows) % rows
            column = (column + mix_many(round_key + golden + row) % columns) % columns
            round_key += step
        images[walking] = row * columns + column  # below size + sqrt(size), so below 2**64
        outside = np.flatnonzero(images >= np.uint64(size))
        if not len(outside):
            return images
        walking = outside


def mix_many(values: np.ndarray) -> np.ndarray:
    """`mix` of each of uint64 (B,); arithmetic of arrays wraps at 2^64 by itself."""
    values = values + np.uint64(GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def mix(value: int) -> int:
    """SplitMix64's finaliser: an avalanche of 64 bits (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    value = (value + GOLDEN) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def ceil_sqrt(value: int) -> int:
    """The smallest r with r * r >= value, for value >= 1."""
    return isqrt(value - 1) + 1
