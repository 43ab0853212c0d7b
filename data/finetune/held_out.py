"""Which examples are kept for validation: a function of what they say, so equal ones stay together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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


def class_thresholds(texts: Iterable[tuple[int, ClassKey]], fraction: float) -> dict[ClassKey, int]:
    """For each class the hash below which that part of its texts lies, to the nearest text.

    At least one text of a class with two, and never all of a class: a class that is only tested cannot be learned.

    Args:
        texts: hash and class of each.
        fraction: part to hold out.
    """
    values: dict[ClassKey, list[int]] = {}
    for value, key in texts:
        values.setdefault(key, []).append(value)
    thresholds = {}
    for key, found in values.items():
        found.sort()
        distinct = sorted(set(found))
        wanted = min(max(1, round(fraction * len(found))), len(found) - 1)
        thresholds[key] = found[wanted] if wanted else 0
        if len(distinct) > 1 and thresholds[key] == distinct[0]:
            thresholds[key] = distinct[1]
    return thresholds
