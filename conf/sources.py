"""`data.train` and `data.stages` in each of their spellings as lists of weighted sources. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .errors import ConfigError, Problem

KEY, STAGES = "data.train", "data.stages"
SPELLINGS = ("give a corpus folder, a Megatron prefix, or a list as in [{path: a, weight: 2}, {path: b, weight: 1}] or "
             "[{path: a, epochs: 3}, {path: b, epochs: 0.5}]")
STAGE_SPELLING = "write for example data.stages=[{from_step: 9000, train: [{path: a, weight: 1}, {path: b, weight: 4}]}]"


@dataclass(frozen=True)
class Source:
    """A corpus folder or Megatron prefix, and its share of the samples relative to the other sources."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class SourceByEpochs:
    """As `Source`, where the share is the corpus' own size times how often it is gone through while each other source is, as it says."""

    path: str
    epochs: float


AnySource = Source | SourceByEpochs


@dataclass(frozen=True)
class DataStage:
    """What changes at a step.

    Args:
        from_step: the first step (0-based: after so many steps) that it holds for.
        train: the sources; none: as before.
        sequence_length: tokens of the independent pieces that samples are cut into; 0: as before.
    """

    from_step: int
    train: list[AnySource] = field(default_factory=list)
    sequence_length: int = 0


def sources(train: Any, key: str = KEY) -> list[AnySource]:
    """The sources that `data.train` names.

    Args:
        train: a path, a list of paths, a list of {path, weight}, or a list of {path, epochs}.
        key: that is blamed.

    Raises:
        ConfigError: with every malformed item.
    """
    if isinstance(train, list) and train and all(isinstance(item, AnySource) for item in train):
        return train
    items = train if isinstance(train, list) else [train]
    found = [_source(item, key) for item in items]
    problems = [item for item in found if isinstance(item, Problem)]
    good = [item for item in found if not isinstance(item, Problem)]
    if not found:
        problems.append(Problem(key, "[]", "names no corpus", SPELLINGS))
    if len({type(item) for item in good}) > 1:
        problems.append(Problem(key, items, "gives some sources a weight and others epochs", "give each a weight, or each its epochs"))
    paths = [item.path for item in good]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        problems.append(Problem(key, items, f"names {', '.join(twice)} more than once", "name each source once, with all of its weight"))
    if problems:
        raise ConfigError(problems)
    return good


def stages(given: Any) -> list[DataStage]:
    """The stages that `data.stages` names, by their first step.

    Raises:
        ConfigError: with everything malformed.
    """
    if not isinstance(given, list):
        raise ConfigError([Problem(STAGES, given, "is not a list of stages", STAGE_SPELLING)])
    problems: list[Problem] = []
    found = [item if isinstance(item, DataStage) else _stage(item, problems) for item in given]
    steps = [stage.from_step for stage in found]
    if not problems and any(after <= before for before, after in pairwise(steps)):
        problems.append(Problem(STAGES, steps, "has stages whose from_step does not rise", "let each begin after the one before"))
    if problems:
        raise ConfigError(problems)
    return found


def all_sources(train: Sequence[AnySource], later: Sequence[DataStage]) -> list[str]:
    """Paths of all sources of a run, each once, by their first appearance; a source's place here is what its order is drawn from."""
    named = [source.path for source in train] + [source.path for stage in later for source in stage.train]
    return list(dict.fromkeys(named))


def _stage(item: Any, problems: list[Problem]) -> DataStage:
    """One stage; what is wrong with it goes to `problems`."""
    if not isinstance(item, dict) or "from_step" not in item or set(item) - {"from_step", "train", "sequence_length"}:
        problems.append(Problem(STAGES, item, "is not from_step with train or sequence_length", STAGE_SPELLING))
        return DataStage(0)
    numbers = {name: item.get(name, 0) for name in ("from_step", "sequence_length")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            problems.append(Problem(STAGES, item, f"has a {name} that is not a whole number of at least 0", STAGE_SPELLING))
    train: list[AnySource] = []
    if item.get("train"):
        try:
            train = sources(item["train"], STAGES)
        except ConfigError as error:
            problems += error.problems
    if not item.get("train") and not item.get("sequence_length"):
        problems.append(Problem(STAGES, item, "changes nothing", "give it train or sequence_length, or leave it out"))
    if train and numbers["from_step"] == 0:
        problems.append(Problem(STAGES, item, "gives the sources of step 0, which data.train does", "write them into data.train"))
    return DataStage(numbers["from_step"], train, numbers["sequence_length"])


def _source(item: Any, key: str) -> AnySource | Problem:
    if isinstance(item, str) and item:
        return Source(item)
    if isinstance(item, AnySource):
        return item
    names = set(item) if isinstance(item, dict) else set()
    if not isinstance(item, dict) or not isinstance(item.get("path"), str) or not item["path"] or names - {"path", "weight", "epochs"}:
        return Problem(key, item, "is not a path with an optional weight or epochs", SPELLINGS)
    if {"weight", "epochs"} <= names:
        return Problem(key, item, "has both a weight and epochs", "leave one of them out")
    name = "epochs" if "epochs" in names else "weight"
    value = item.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        what = "a weight that is" if name == "weight" else "epochs that are"
        return Problem(key, item, f"has {what} not a number above 0", "leave out a source that is not wanted")
    return SourceByEpochs(item["path"], float(value)) if name == "epochs" else Source(item["path"], float(value))
