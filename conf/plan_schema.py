"""Every key of `hexareme plan`: those of a training run, and how many ranks it is planned for."""

from dataclasses import dataclass
from typing import Any

from .fields import number, text
from .schema import Config, DataConfig


@dataclass(kw_only=True)
class PlannedDataConfig(DataConfig):
    """A plan reads no data."""

    train: Any = text("unread", help="not read by a plan")


@dataclass(kw_only=True)
class PlanConfig(Config):
    """A training run that is only looked at."""

    data: PlannedDataConfig
    ranks: int = number(0, least=0, help="ranks to plan for, on one machine unless cluster.ranks_per_node is above 1; 0: cluster.nodes x "
                       "cluster.ranks_per_node")
    output: str = text("", help="JSON file for the plan; empty: only printed")
