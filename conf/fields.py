"""Dataclass fields that carry their own rule and help text, so that one walk over the schema validates and documents it."""

from dataclasses import MISSING, field
from typing import Any


def number(default: Any = MISSING, *, least: float | None = None, most: float | None = None, above: float | None = None,
           below: float | None = None, help: str = "") -> Any:
    """A numeric field.

    Args:
        default: left out, the key is mandatory.
        least, most: inclusive bounds.
        above, below: exclusive bounds.
        help: one line for `--help`, with the unit.
    """
    rule = {"least": least, "most": most, "above": above, "below": below}
    return field(default=default, metadata={"rule": {k: v for k, v in rule.items() if v is not None}, "help": help})


def text(default: Any = MISSING, *, help: str = "") -> Any:
    """A string or boolean or enum field without a numeric rule."""
    return field(default=default, metadata={"rule": {}, "help": help})


def items(default: list[Any] | dict[str, Any] | None = None, *, help: str = "") -> Any:
    """A list or dictionary field, empty unless `default` is given."""
    start = [] if default is None else default
    return field(default_factory=start.copy, metadata={"rule": {}, "help": help})
