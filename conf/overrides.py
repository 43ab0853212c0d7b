"""The command line's `key=value` words, judged one by one and rewritten for Hydra."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from .check import forbidden, misfit
from .errors import Problem
from .keys import is_dictionary, leaves, nearest, sections_of, table
from .registry import COMMANDS

SEARCH_PATH = "hydra.searchpath"
CONF = Path(__file__).parent
RECIPES = "experiment"  # the one group that is no section: whole recipes laid over everything else


def options(command: str, folders: Sequence[Path] = (CONF,)) -> dict[str, list[str]]:
    """The groups that a command takes, each with the names of its YAML files.

    Args:
        command: a key of `registry.COMMANDS`.
        folders: where groups lie: ours, and those of `hydra.searchpath`.
    """
    entry = COMMANDS[command]
    sections = [*sections_of(entry.schema()), *([RECIPES] if "train" in (command, entry.like) else [])] if entry.groups else []
    found = {name: sorted({file.stem for folder in folders for file in (folder / name).glob("*.yaml")}) for name in sections}
    return {name: names for name, names in found.items() if names}


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """The user's folders in `hydra.searchpath=[file://a,b]`."""
    words = [word.partition("=")[2] for word in overrides if word.startswith("hydra.searchpath=")]
    return [Path(entry.strip("\"' ").removeprefix("file://")) for word in words for entry in re.split(r"[\[\],]", word) if entry.strip()]


@dataclass
class Screened:
    """The overrides of one command, judged.

    Args:
        groups: for Hydra: which YAML files, and where more of them lie.
        values: full key and plain value, in order.
        problems: of the others.
    """

    groups: list[str] = field(default_factory=list)
    values: list[tuple[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def screen(command: str, overrides: Sequence[str], structure: DictConfig) -> Screened:
    """Judges each override by itself, so that one mistake does not hide the next.

    Args:
        command: a key of `registry.COMMANDS`.
        overrides: as on the command line.
        structure: `check.blank` of the command's schema.
    """
    schema = COMMANDS[command].schema()
    groups = options(command, [CONF, *own_folders(overrides)])
    parser = OverridesParser.create()
    screened = Screened()
    for text in overrides:
        key, _, word = text.lstrip("+").partition("=")
        if takes_text(key, word, schema):
            screen_pair(key, word, structure, schema, screened)
            continue
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            screened.problems.append(Problem(
                text.partition("=")[0], text.partition("=")[2], f"is not of the form key=value: {first_line(error)}",
                "put values with spaces, commas or brackets in quotes: 'key=\"a, b\"'"))
            continue
        if problem := wrong_kind(override):
            screened.problems.append(problem)
        elif override.key_or_group in groups and not isinstance(override.value(), Mapping):
            screen_group(override, groups[override.key_or_group], screened)
        elif override.key_or_group == SEARCH_PATH:
            screened.groups.append(text)
        else:
            screen_values(override, structure, schema, screened)
    return screened


def takes_text(key: str, word: str, schema: type[Any]) -> bool:
    """Whether a word is meant letter by letter: `prompt=def main(a, b):` is no syntax error, and `run.name=1e3` is not 1000.0.

    Quotes keep Hydra's meaning: they are taken off. A path of free form (`data.train`) is a text unless it opens a list or a dictionary.
    """
    hint = table(schema).get(key, (None,))[0]
    return (hint is str and word[:1] not in ("'", '"')) or (hint is Any and word[:1] not in ("'", '"', "[", "{", ""))


def wrong_kind(override: Override) -> Problem | None:
    """What Hydra can do and a run has no use for."""
    key, value = override.key_or_group, str(override.input_line).partition("=")[2]
    if override.is_delete():
        return Problem(key, "???", "cannot be deleted", "set it to another value")
    if override.package is not None:
        return Problem(f"{key}@{override.package}", value, "puts a group where it does not belong", f"write {key}=...")
    if override.is_sweep_override():
        return Problem(key, value, "is a list of runs", f"give one value, or a list in brackets: {key}=[...]")
    if re.match(r"hydra\b", key) and key != SEARCH_PATH:
        return Problem(key, value, "is Hydra's own", f"leave it out; {SEARCH_PATH}=[file://<folder>] adds your own YAML groups")
    return None


def screen_group(override: Override, names: Sequence[str], screened: Screened) -> None:
    """A group set to one of its files, or to one that is not there."""
    group, value = override.key_or_group, override.value()
    if value in names or (value is None and group == RECIPES):
        screened.groups.append(f"{group}={'null' if value is None else value}")
        return
    guess = nearest(str(value), names)
    screened.problems.append(Problem(group, value, f"must be one of {', '.join(names)}",
                                     f"did you mean {guess}?" if guess else "take one of these"))


def screen_values(override: Override, structure: DictConfig, schema: type[Any], screened: Screened) -> None:
    """A value, or a whole section in braces."""
    dictionaries = [name for name, (hint, _) in table(schema).items() if is_dictionary(hint)]
    for key, value in leaves(override.value(), override.key_or_group, dictionaries):
        screen_pair(key, value, structure, schema, screened)


def screen_pair(key: str, value: Any, structure: DictConfig, schema: type[Any], screened: Screened) -> None:
    """One key and its plain value."""
    problem = forbidden(key, value) or misfit(structure, key, value, schema)
    if problem:
        screened.problems.append(problem)
    else:
        screened.values.append((key, value))


def first_line(error: Exception) -> str:
    """The first non-empty line of a foreign error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
