"""What is wrong with a configuration, said so that the user can mend all of it at once. Pure: imports nothing of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


def show(value: Any) -> str:
    """A value as the user would write it in YAML or in an override."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    shown = str(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one key.

    Args:
        key: the full key, as in `parallel.tp`.
        value: what it is set to; "???" where it has no value.
        message: why that cannot be, with the other values involved.
        do: the way out, one clause.
    """

    key: str
    value: Any
    message: str
    do: str

    @property
    def what(self) -> str:
        """Key, value and reason."""
        return f"{self.key} {self.message}" if self.value == "???" else f"{self.key}={show(self.value)} {self.message}"

    def __str__(self) -> str:
        return f"{self.what} (do: {self.do})"


class ConfigError(ValueError):
    """A configuration that cannot run, with every problem that was found.

    Args:
        problems: at least one.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a ConfigError needs a problem"
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in problems))

    @property
    def what(self) -> str:
        """One clause, however many problems there are."""
        if len(self.problems) == 1:
            return self.problems[0].what
        return f"{len(self.problems)} problems in the configuration: {', '.join(problem.key for problem in self.problems)}"

    @property
    def do(self) -> str:
        """The way out, one clause."""
        return self.problems[0].do if len(self.problems) == 1 else "mend the keys listed above"
