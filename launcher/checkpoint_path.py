"""Which checkpoint a command is about."""

from pathlib import Path

from ..conf.commands_schema import EvaluateConfig, GenerateConfig
from ..conf.errors import ConfigError, Problem


def checkpoint_path(config: EvaluateConfig | GenerateConfig) -> Path:
    """The folder that `directory` or `checkpoint` names.

    Raises:
        ConfigError: neither or both are given.
    """
    if bool(config.directory) == bool(config.checkpoint):
        what = "and checkpoint are both given" if config.directory else "and checkpoint are both empty"
        raise ConfigError([Problem("directory", config.directory, what, "give directory=runs/<name>, or checkpoint=<folder>")])
    return Path(config.directory or config.checkpoint)
