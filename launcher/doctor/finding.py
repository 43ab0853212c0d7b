"""One thing that the doctor has found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    ok = "ok"
    warning = "warning"  # a run starts, and may suffer
    error = "error"  # a run fails


@dataclass(frozen=True)
class Finding:
    """What one check says.

    Args:
        check: its name.
        level: how bad it is.
        what: with the figures.
        do: the way out, one clause; empty where all is well.
        hosts: that it is about; empty: all of them.
    """

    check: str
    level: Level
    what: str
    do: str = ""
    hosts: tuple[str, ...] = ()
