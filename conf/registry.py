"""Which schema and which YAML file belong to which command."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Where a command's schema lives.

    Args:
        module, schema_name: of the dataclass.
        like: the command whose primary YAML file and groups it takes: train for whatever reads a whole training config; empty: its own
            `<command>.yaml`. The stored schema has the name `<that>_schema`.
        groups: its sections can be chosen from the YAML groups of that name.
    """

    module: str
    schema_name: str
    like: str = ""
    groups: bool = True

    def schema(self) -> type[Any]:
        """The dataclass; imported here so that a command loads only its own schema."""
        found = getattr(import_module(self.module, __package__), self.schema_name)
        assert isinstance(found, type)
        return found


COMMANDS = {
    "train": Entry(".schema", "Config"),
    "prove": Entry(".prove_schema", "ProveConfig", like="train"),
    "plan": Entry(".plan_schema", "PlanConfig", like="train"),
    "doctor": Entry(".doctor_schema", "DoctorConfig", like="train"),
    "submit": Entry(".submit_schema", "SubmitConfig", like="train"),
    "prepare": Entry(".prepare_schema", "PrepareConfig"),
    "evaluate": Entry(".commands_schema", "EvaluateConfig", groups=False),
    "generate": Entry(".commands_schema", "GenerateConfig", groups=False),
    "report": Entry(".commands_schema", "ReportConfig"),
    "watch": Entry(".commands_schema", "WatchConfig"),
    "inspect": Entry(".checkpoint_commands_schema", "InspectConfig"),
    "convert": Entry(".checkpoint_commands_schema", "ConvertConfig"),
    "bench": Entry(".commands_schema", "BenchConfig"),
}
