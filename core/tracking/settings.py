"""What the training process tells the follower, as one line of JSON on its standard input: nothing secret ever stands on a command line."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class FollowerSettings:
    """Where to send the metrics of one run.

    Args:
        wandb: online, offline or disabled.
        project, entity: W&B project, and team or user (empty: the account's default).
        run_name: shown in W&B (empty: W&B invents one).
        tensorboard: whether to write TensorBoard event files.
        config: the run's resolved config as plain values, without secrets.
    """

    wandb: str
    project: str
    entity: str
    run_name: str
    tensorboard: bool
    config: dict[str, Any]

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The settings of one line that `to_line` wrote."""
        return cls(**json.loads(line))
