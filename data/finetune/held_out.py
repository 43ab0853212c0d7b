"""Which examples are kept for validation: a function of what they say, so equal ones stay together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .records import ClassKey, Label, class_key


@dataclass(frozen=True)
class HeldOut:
    """Examples with a smaller hash go to the validation part; the threshold is that of their class, if it has one of its own."""

    threshold: int
    by_class: Mapping[ClassKey, int] = field(default_factory=dict)

    def part(self, value: int, label: Label | None) -> str:
        """Where an example with this hash and label belongs."""
        limit = self.threshold if label is None else self.by_class.get(class_key(label), self.threshold)
        return "validation" if value < limit else "train"


def class_thresholds(hashes: np.ndarray, classes: np.ndarray, fraction: float) -> list[int]:
    """For each class the hash below which that part of its texts lies, to the nearest text.

    At least one text of a class with two, and never all of a class: a class that is only tested cannot be learned.

    Args:
        hashes: uint64 (texts,).
        classes: int32 (texts,), the class of each; 0, 1 .. each at least once.
        fraction: part to hold out.
    """
    order = np.lexsort((hashes, classes))
    counts = np.bincount(classes)
    thresholds = []
    for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True):
        found = hashes[order[end - count : end]]
        wanted = min(max(1, round(fraction * count)), count - 1)
        threshold = int(found[wanted]) if wanted else 0
        second = int(np.searchsorted(found, found[0], "right"))  # the first of another hash
        if second < count and threshold == found[0]:
            threshold = int(found[second])
        thresholds.append(threshold)
    return thresholds
