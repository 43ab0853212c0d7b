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
    return yaml.dump(as_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)


class _Dumper(yaml.SafeDumper):
    """YAML folds these three like a line break and reads a space back, unless they are escaped."""

    FOLDED = frozenset("\x85\u2028\u2029")

    def represent_str(self, value: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if self.FOLDED & set(value) else None)


_Dumper.add_representer(str, _Dumper.represent_str)
