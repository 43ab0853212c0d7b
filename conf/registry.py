"""Which schema and which YAML file belong to which command."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Where a command's schema lives. The primary YAML file is `<command>.yaml`, the stored schema `<command>_schema`."""

    module: str
    schema_name: str

    def schema(self) -> type[Any]:
        """The dataclass; imported here so that a command loads only its own schema."""
        found = getattr(import_module(self.module, __package__), self.schema_name)
        assert isinstance(found, type)
        return found


COMMANDS = {
    "train": Entry(".schema", "Config"),
    "prepare": Entry(".prepare_schema", "PrepareConfig"),
    "evaluate": Entry(".commands_schema", "EvaluateConfig"),
    "generate": Entry(".commands_schema", "GenerateConfig"),
    "report": Entry(".commands_schema", "ReportConfig"),
    "bench": Entry(".commands_schema", "BenchConfig"),
}
