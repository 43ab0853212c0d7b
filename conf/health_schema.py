"""What counts as an unhealthy number, and what happens then."""

from dataclasses import dataclass
from enum import StrEnum

from .fields import number, text


class NonFinite(StrEnum):
    skip = "skip"
    stop = "stop"


class Spike(StrEnum):
    off = "off"
    warn = "warn"
    rewind = "rewind"


@dataclass(kw_only=True)
class HealthConfig:
    non_finite: NonFinite = text(NonFinite.skip, help="a step whose loss or gradient is not finite changes nothing and is skipped, or "
                                 "stops the run (exit 6)")
    most_skips: int = number(5, least=1, help="steps skipped in a row before the run stops (exit 6)")
    spike: Spike = text(Spike.warn, help="a loss far above its course: name it, or also go back to the newest checkpoint "
                        "before it and pass over the samples since")
    spike_sigma: float = number(6.0, above=0, help="how far above: in standard deviations of the recent steps")
    spike_window: int = number(128, least=16, help="recent steps that a loss is compared with")
    most_rewinds: int = number(3, least=0, help="rewinds of one start before a spike stops the run (exit 6)")
    audit_interval: int = number(100, least=0, help="steps between checks that replicas are still equal, bit for bit; 0: only at saves")
