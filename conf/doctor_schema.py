"""Every key of `hexareme doctor`: those of a training run, and what is looked at."""

from dataclasses import dataclass
from typing import Any

from .fields import number, text
from .schema import Config, DataConfig


@dataclass(kw_only=True)
class UnreadDataConfig(DataConfig):
    """The doctor reads no data."""

    train: Any = text("unread", help="not read")


@dataclass(kw_only=True)
class DoctorConfig(Config):
    """The machines of a run, looked at before it starts."""

    data: UnreadDataConfig
    speed: bool = text(True, help="measure matrix products, memory, an all-reduce and the disk: some 20 s")
    port: int = number(0, least=0, most=65535, help="port at which the ranks will meet; 0: any")
    all_reduce_gigabytes: float = number(0.0, least=0, help="GB a second that an all-reduce should reach on each rank; 0: any")
    strict: bool = text(False, help="exit 1 for warnings, too")
    output: str = text("", help="JSON file for the findings and the facts; empty: only printed")
