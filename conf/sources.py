"""`data.train` in each of its spellings as one list of weighted sources. Pure."""

import math
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError, Problem

KEY = "data.train"
SPELLINGS = "give a corpus folder, a Megatron prefix, or a list as in [{path: a, weight: 2}, {path: b, weight: 1}]"


@dataclass(frozen=True)
class Source:
    """A corpus folder or Megatron prefix, and its share of the samples relative to the other sources."""

    path: str
    weight: float = 1.0


def sources(train: Any) -> list[Source]:
    """The sources that `data.train` names.

    Args:
        train: a path, a list of paths, or a list of {path, weight}.

    Raises:
        ConfigError: with every malformed item.
    """
    if isinstance(train, list) and train and all(isinstance(item, Source) for item in train):
        return train
    items = train if isinstance(train, list) else [train]
    found = [_source(item) for item in items]
    problems = [item for item in found if isinstance(item, Problem)]
    if not found:
        problems.append(Problem(KEY, "[]", "names no corpus", SPELLINGS))
    if problems:
        raise ConfigError(problems)
    return [item for item in found if isinstance(item, Source)]


def _source(item: Any) -> Source | Problem:
    if isinstance(item, str) and item:
        return Source(item)
    if not isinstance(item, dict) or not isinstance(item.get("path"), str) or not item["path"] or set(item) - {"path", "weight"}:
        return Problem(KEY, item, "is not a path with an optional weight", SPELLINGS)
    weight = item.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
        return Problem(KEY, item, "has a weight that is not a number above 0", "leave out a source that is not wanted")
    return Source(item["path"], float(weight))
