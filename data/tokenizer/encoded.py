"""Ids of many texts end to end, and what every tokenizer does to get them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

_GROUP = 1 << 19  # characters that a library encodes in one call


@dataclass(frozen=True)
class Encoded:
    """Ids of texts end to end.

    Args:
        ids: (tokens,) unsigned.
        lengths: (texts,) int64.
    """

    ids: np.ndarray
    lengths: np.ndarray


def encode_in_parts(
    texts: Sequence[str],
    cut: Callable[[str], list[str]],
    encode: Callable[[list[str]], list[np.ndarray]],
    *,
    end: int | None,
    dtype: DTypeLike,
) -> Encoded:
    """Encodes each text in parts of bounded length.

    Args:
        texts: any.
        cut: a text in parts.
        encode: the ids of each part; never called with more than a few million characters.
        end: an id after each text; None: nothing.
        dtype: of the ids.
    """
    parts, counts = [], np.empty(len(texts), np.int64)
    for place, text in enumerate(texts):
        pieces = cut(text)
        parts += pieces
        counts[place] = len(pieces)
    arrays = [ids for group in _groups(parts) for ids in encode(group)]
    lengths = np.add.reduceat(np.fromiter(map(len, arrays), np.int64, len(arrays)), np.cumsum(counts) - counts) if arrays else counts
    if end is not None:
        arrays = _closed(arrays, counts, np.array([end], dtype))
        lengths += 1
    ids = np.concatenate(arrays, dtype=dtype, casting="unsafe") if arrays else np.empty(0, dtype)
    return Encoded(ids, lengths)


def joined(encoded: Sequence[Encoded], dtype: DTypeLike) -> Encoded:
    """The texts of all, one after the other."""
    if len(encoded) == 1:
        return encoded[0]
    if not encoded:
        return Encoded(np.empty(0, dtype), np.empty(0, np.int64))
    return Encoded(np.concatenate([each.ids for each in encoded]), np.concatenate([each.lengths for each in encoded]))


def _closed(arrays: list[np.ndarray], counts: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    following = iter(arrays)
    return [ids for count in counts for ids in (*(next(following) for _ in range(count)), end)]


def _groups(parts: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for part in parts:
        if group and characters + len(part) > _GROUP:
            yield group
            group, characters = [], 0
        group.append(part)
        characters += len(part)
    if group:
        yield group
