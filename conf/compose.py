"""YAML groups and overrides -> one plain dataclass tree, or every problem at once. Imports no torch; the only user of Hydra here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .check import blank, dig, forbidden, misfit, put, violations
from .dump import as_dict, dump_yaml
from .errors import ConfigError, Problem
from .keys import is_dictionary, leaves, table
from .overrides import first_line, screen
from .registry import COMMANDS
from .schema import Config
from .sources import sources, stages

__all__ = ["as_dict", "compose", "defaults", "dump_yaml", "load_yaml"]


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
    structure = blank(schema)
    screened = screen(command, overrides, structure)
    with hydra(command, structure):
        try:
            config = hydra_compose(COMMANDS[command].like or command, screened.groups)
        except (HydraException, OmegaConfBaseException) as error:
            screened.problems.append(Problem(f"{command}.yaml", "???", f"cannot be composed: {' '.join(str(error).split())}",
                                    "mend the YAML file or the override that is named"))
            raise ConfigError(screened.problems) from error
    for key, value in screened.values:
        put(config, key, value, schema)
    return finished(config, schema, screened.problems)


def finished(config: DictConfig, schema: type[Any], problems: list[Problem]) -> Any:
    """The plain dataclass of a composed config, if neither it nor the overrides have problems."""
    blamed = {problem.key for problem in problems}
    problems = problems + [found for found in violations(config, schema) if found.key not in blamed]
    if problems:
        raise ConfigError(problems)
    plain = OmegaConf.to_object(config)
    if isinstance(plain, Config):
        plain.data.train, plain.data.stages = sources(plain.data.train), stages(plain.data.stages)
    return plain


def defaults(command: str) -> dict[str, Any]:
    """Full key -> what it is without any override, from the schema and the YAML files; "???" where there is no default."""
    schema = COMMANDS[command].schema()
    with hydra(command, blank(schema)):
        raw = OmegaConf.to_container(hydra_compose(COMMANDS[command].like or command), resolve=False, enum_to_str=False)
    return {key: dig(raw, key) for key in table(schema)}


@contextmanager
def hydra(command: str, structure: DictConfig) -> Iterator[None]:
    """Hydra set up for one command, and taken down again."""
    ConfigStore.instance().store(name=f"{COMMANDS[command].like or command}_schema", node=structure)
    with initialize_config_module("hexareme.conf", version_base="1.3"):
        yield


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
            put(config, key, value, schema)
    return finished(config, schema, problems)
