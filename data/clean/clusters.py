"""Union-find over numbers, on disk: the smallest number of a cluster stands for it."""

from pathlib import Path

import numpy as np

_BLOCK = 1 << 20


class Clusters:
    """Numbers 0 .. count - 1, each a cluster of its own at first.

    Args:
        path: file to be made: each number's parent, uint32 (uint64 above 2^32 numbers).
        count: of numbers, at least 1.
    """

    def __init__(self, path: Path, count: int) -> None:
        dtype = np.dtype(np.uint32 if count <= 2**32 else np.uint64)
        self._parent = np.memmap(path, dtype, "w+", shape=(count,))
        for begin in range(0, count, _BLOCK):
            end = min(begin + _BLOCK, count)
            self._parent[begin:end] = np.arange(begin, end, dtype=dtype)

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        """The smallest number of each one's cluster.

        Args:
            numbers: of any integer type, (n,).
        """
        parent = self._parent
        root = parent[numbers]
        while True:
            above = parent[root]
            if np.array_equal(above, root):
                break
            above = parent[above]
            parent[root] = above  # halves the way up (Tarjan and van Leeuwen, 1984)
            root = above
        parent[numbers] = root
        return root

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Makes one cluster of those of each pair.

        Args:
            one: (pairs,).
            other: (pairs,).
        """
        while len(one):
            one, other = self.roots(one), self.roots(other)
            apart = one != other
            one, other = one[apart], other[apart]
            # A root that several pairs hook gets the smallest; the pairs that lost go round again.
            np.minimum.at(self._parent, np.maximum(one, other), np.minimum(one, other))

    def flatten(self) -> np.ndarray:
        """Each number's smallest companion, (count,) on disk."""
        count = len(self._parent)
        for begin in range(0, count, _BLOCK):
            self.roots(np.arange(begin, min(begin + _BLOCK, count)))
        self._parent.flush()
        return self._parent
