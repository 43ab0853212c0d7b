"""The command line's `key=value` words, judged one by one and rewritten for Hydra."""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from .check import enum_name, forbidden, misfit
from .errors import Problem
from .keys import is_dictionary, leaves, nearest, table
from .registry import COMMANDS

CONF = Path(__file__).parent
RECIPES = "experiment"  # the one group that is no section: whole recipes laid over everything else


def options(command: str, folders: Sequence[Path] = (CONF,)) -> dict[str, list[str]]:
    """The groups that a command takes, each with the names of its YAML files.

    Args:
        command: a key of `registry.COMMANDS`.
        folders: where groups lie: ours, and those of `hydra.searchpath`.
    """
    sections = [*COMMANDS[command].schema().__dataclass_fields__, *([RECIPES] if command == "train" else [])]
    found = {name: sorted({file.stem for folder in folders for file in (folder / name).glob("*.yaml")}) for name in sections}
    return {name: names for name, names in found.items() if names}


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """The user's folders in `hydra.searchpath=[file://a,b]`."""
    words = [word.partition("=")[2] for word in overrides if word.startswith("hydra.searchpath=")]
    return [Path(entry.strip("\"' ").removeprefix("file://")) for word in words for entry in re.split(r"[\[\],]", word) if entry.strip()]


def screen(command: str, overrides: Sequence[str], structure: DictConfig) -> tuple[list[str], list[Problem]]:
    """Judges each override by itself, so that one mistake does not hide the next.

    Args:
        command: a key of `registry.COMMANDS`.
        overrides: as on the command line.
        structure: `check.blank` of the command's schema.

    Returns:
        The overrides that Hydra will take, rewritten to its dialect, and the problems of the others.
    """
    schema = COMMANDS[command].schema()
    groups = options(command, [CONF, *own_folders(overrides)])
    parser = OverridesParser.create()
    accepted: list[str] = []
    problems: list[Problem] = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            problems.append(Problem(text.partition("=")[0], text.partition("=")[2], f"is not of the form key=value: {first_line(error)}",
                                    "put values with spaces, commas or brackets in quotes: 'key=\"a, b\"'"))
            continue
        found = faults(override, structure, schema, groups)
        problems += found
        if not found:
            accepted.append(dialect(override, schema))
    return accepted, problems


def faults(override: Override, structure: DictConfig, schema: type[Any], groups: Mapping[str, list[str]]) -> list[Problem]:
    """What is wrong with one override."""
    key = override.key_or_group
    if override.is_delete():
        return [Problem(key, "???", "cannot be deleted", "set it to another value")]
    if override.is_sweep_override():
        return [Problem(key, str(override.input_line).partition("=")[2], "is a list of runs",
                        f"give one value, or a list in brackets: {key}=[...]")]
    value = override.value()
    if key == "hydra.searchpath":
        return []
    if key.split(".")[0].split("/")[0] == "hydra":
        return [Problem(key, value, "is Hydra's own", "leave it out; hydra.searchpath=[file://<folder>] adds your own YAML groups")]
    if key in groups and not isinstance(value, Mapping):
        return unknown_option(key, value, groups[key])
    dictionaries = [name for name, (hint, _) in table(schema).items() if is_dictionary(hint)]
    pairs = list(leaves(value, key, dictionaries))
    found = [forbidden(k, v) or misfit(structure, k, v, schema) for k, v in pairs]
    return [problem for problem in found if problem]


def unknown_option(group: str, value: Any, options: Sequence[str]) -> list[Problem]:
    """A group set to a file that is not there."""
    if value in options or (value is None and group == RECIPES):
        return []
    guess = nearest(str(value), options)
    return [Problem(group, value, f"must be one of {', '.join(options)}", f"did you mean {guess}?" if guess else "take one of these")]


def dialect(override: Override, schema: type[Any]) -> str:
    """An accepted override as Hydra wants it: `++` for new names below a dictionary key, enum members by name."""
    key, text = override.key_or_group, str(override.input_line).lstrip("+")
    known = table(schema)
    if key in known and isinstance(override.value(), str):
        hint = known[key][0]
        if isinstance(hint, type) and issubclass(hint, Enum):
            return f"{key}={enum_name(hint, override.value())}"
    below = any(is_dictionary(hint) and key.startswith(f"{name}.") for name, (hint, _) in known.items())
    return f"++{text}" if below else text


def first_line(error: Exception) -> str:
    """The first non-empty line of a foreign error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
