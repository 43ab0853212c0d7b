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
    cut: Callable[[str], Iterator[str]],
    encode: Callable[[list[str]], list[np.ndarray]],
    *,
    end: int | None,
    dtype: DTypeLike,
) -> Encoded:
    """Encodes each text in parts of bounded length; holds no more text than one call takes.

    Args:
        texts: any.
        cut: a text in parts.
        encode: the ids of each part; never called with much more than half a million characters, but for a part that is longer.
        end: an id after each text; None: nothing.
        dtype: of the ids.
    """
    last = np.empty(0, dtype) if end is None else np.array([end], dtype)
    arrays: list[np.ndarray] = []
    lengths = np.zeros(len(texts), np.int64)
    for group in _groups(texts, cut):
        for (place, _, whole), ids in zip(group, encode([part for _, part, _ in group]), strict=True):
            arrays.append(ids.astype(dtype, copy=False))
            lengths[place] += len(ids)
            if whole:
                arrays.append(last)
                lengths[place] += len(last)
    return Encoded(np.concatenate(arrays) if arrays else np.empty(0, dtype), lengths)


def joined(encoded: Sequence[Encoded], dtype: DTypeLike) -> Encoded:
    """The texts of all, one after the other."""
    if len(encoded) == 1:
        return encoded[0]
    if not encoded:
        return Encoded(np.empty(0, dtype), np.empty(0, np.int64))
    return Encoded(np.concatenate([each.ids for each in encoded]), np.concatenate([each.lengths for each in encoded]))


def _groups(texts: Sequence[str], cut: Callable[[str], Iterator[str]]) -> Iterator[list[tuple[int, str, bool]]]:
    """Parts that are encoded together: which text each is of, and whether it is its last."""
    group: list[tuple[int, str, bool]] = []
    characters = 0
    for place, text in enumerate(texts):
        parts = cut(text)
        following: str | None = next(parts)
        while (part := following) is not None:
            following = next(parts, None)
            if group and characters + len(part) > _GROUP:
                yield group
                group, characters = [], 0
            group.append((place, part, following is None))
            characters += len(part)
    if group:
        yield group
