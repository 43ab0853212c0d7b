"""A sample of documents, bounded in memory, that does not depend on their order."""

import heapq
from collections.abc import Iterable

from ..hashes import HASHES

BUDGET = 100_000_000  # UTF-8 bytes; more text than this does not change a vocabulary


class Sample:
    """Those documents with the smallest hashes that fit the budget together.

    Args:
        budget: UTF-8 bytes.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._size = 0
        self._arrived = 0
        self._limit = HASHES
        self._heap: list[tuple[int, int, str, int]] = []  # (-hash, arrival, text, bytes): the largest hash first

    @property
    def most(self) -> int:
        """The largest hash that a document may have to be taken."""
        return self._limit - 1

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """Takes what fits.

        Args:
            texts: (hash, text) pairs.
        """
        for value, text in texts:
            if value >= self._limit:
                continue
            size = len(text.encode())
            heapq.heappush(self._heap, (-value, self._arrived, text, size))
            self._arrived += 1
            self._size += size
            while self._size > self._budget and len(self._heap) > 1:
                # What is once too much stays out, and so does all above it; or the order would count.
                negative, _, _, size = heapq.heappop(self._heap)
                self._size -= size
                self._limit = -negative

    def drop_below(self, threshold: int) -> None:
        """Removes the documents whose hash is smaller."""
        self._heap = [entry for entry in self._heap if -entry[0] >= threshold]
        heapq.heapify(self._heap)
        self._size = sum(entry[3] for entry in self._heap)

    def texts(self) -> list[str]:
        """The documents in the order in which they came."""
        return [text for _, _, text, _ in sorted(self._heap, key=lambda entry: entry[1])]
