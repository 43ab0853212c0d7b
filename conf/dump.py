"""A config as plain values and as YAML, for `config.yaml`, checkpoints and tracking. Pure: no Hydra, no OmegaConf."""

from dataclasses import asdict
from enum import Enum
from typing import Any

import yaml


def as_dict(config: Any) -> dict[str, Any]:
    """A config as nested dictionaries of plain JSON values; enums by value."""
    found = plain(asdict(config))
    assert isinstance(found, dict)
    return found


def plain(value: Any) -> Any:
    """Dictionaries, lists, numbers, texts, booleans and None only."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def dump_yaml(config: Any) -> str:
    """A config as YAML that `compose.load_yaml` reads back equal; keys in the order of the schema."""
    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True, width=140)
