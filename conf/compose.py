"""YAML groups and overrides -> one plain dataclass tree, or every problem at once. Imports no torch; the only user of Hydra here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .check import blank, dig, enum_name, forbidden, misfit, violations
from .dump import as_dict, dump_yaml
from .errors import ConfigError, Problem
from .keys import is_dictionary, leaves, nearest, table
from .registry import COMMANDS
from .schema import Config
from .sources import sources

__all__ = ["as_dict", "compose", "defaults", "dump_yaml", "load_yaml", "options"]

RECIPES = "experiment"  # the one group that is no section: whole recipes laid over everything else


def compose(command: str, overrides: Sequence[str]) -> Any:
    """The configuration of a command.

    Args:
        command: a key of `registry.COMMANDS`.
        overrides: as on the command line: `key=value`, `group=option`.

    Returns:
        The command's dataclass (`Config` for train): plain values and enums, nothing left to resolve.

    Raises:
        ConfigError: with all problems that can be found, not only the first.
    """
    schema = COMMANDS[command].schema()
    with hydra(command, schema) as groups:
        accepted, problems = screen(overrides, schema, groups)
        try:
            config = hydra_compose(command, accepted)
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(Problem(f"{command}.yaml", "???", f"cannot be composed: {' '.join(str(error).split())}",
                                    "mend the YAML file or the override that is named"))
            raise ConfigError(problems) from error
    return finished(config, schema, problems)


def finished(config: DictConfig, schema: type[Any], problems: list[Problem]) -> Any:
    """The plain dataclass of a composed config, if neither it nor the overrides have problems."""
    blamed = {problem.key for problem in problems}
    problems = problems + [found for found in violations(config, schema) if found.key not in blamed]
    if problems:
        raise ConfigError(problems)
    plain = OmegaConf.to_object(config)
    if isinstance(plain, Config):
        plain.data.train = sources(plain.data.train)
    return plain


def options(command: str) -> dict[str, list[str]]:
    """The groups that a command takes, each with the names of its YAML files."""
    with hydra(command, COMMANDS[command].schema()) as groups:
        return groups


def defaults(command: str) -> dict[str, Any]:
    """Full key -> what it is without any override, from the schema and the YAML files; "???" where there is no default."""
    schema = COMMANDS[command].schema()
    with hydra(command, schema):
        raw = OmegaConf.to_container(hydra_compose(command), resolve=False, enum_to_str=False)
    return {key: dig(raw, key) for key in table(schema)}


@contextmanager
def hydra(command: str, schema: type[Any]) -> Iterator[dict[str, list[str]]]:
    """Hydra set up for one command; gives the groups that the command takes, each with its options."""
    ConfigStore.instance().store(name=f"{command}_schema", node=blank(schema))
    with initialize_config_module("hexareme.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        sections = [*schema.__dataclass_fields__, *([RECIPES] if command == "train" else [])]
        yield {name: found for name in sections if (found := loader.get_group_options(name))}


def screen(overrides: Sequence[str], schema: type[Any], groups: Mapping[str, list[str]]) -> tuple[list[str], list[Problem]]:
    """Judges each override by itself, so that one mistake does not hide the next.

    Returns:
        The overrides that Hydra will take, rewritten to its dialect, and the problems of the others.
    """
    parser = OverridesParser.create()
    structure = blank(schema)
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


def load_yaml(path: Path, schema: type[Any] = Config) -> Any:
    """Reads back what `dump_yaml` wrote, as with `<run>/config.yaml`.

    Raises:
        ConfigError: with every key that is unknown, missing, of the wrong type or out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([Problem(str(path), "???", f"cannot be read: {first_line(error)}", "name the folder of a run")]) from error
    if not isinstance(raw, dict):
        raise ConfigError([Problem(str(path), "???", "is not a configuration", "name the folder of a run")])
    structure = blank(schema)
    dictionaries = [name for name, (hint, _) in table(schema).items() if is_dictionary(hint)]
    config, problems = structure.copy(), []
    for key, value in leaves(raw, "", dictionaries):
        problem = forbidden(key, value) or misfit(structure, key, value, schema)
        if problem:
            problems.append(problem)
        else:
            hint = table(schema)[key][0]
            OmegaConf.update(config, key, enum_name(hint, value) if isinstance(hint, type) and issubclass(hint, Enum) else value,
                             merge=False)
    return finished(config, schema, problems)
