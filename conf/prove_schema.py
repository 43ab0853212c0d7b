"""Every key of `hexareme prove`: those of a training run, and how it is proven."""

from dataclasses import dataclass
from typing import Any

from .fields import number, text
from .schema import Config, DataConfig


@dataclass(kw_only=True)
class ProvenDataConfig(DataConfig):
    """A proof makes its own tokens."""

    train: Any = text("made", help="not read: the ranks make their own tokens; of a corpus of task=chat rows of packed examples")


@dataclass(kw_only=True)
class ProveConfig(Config):
    """A training run, scaled down and run under many layouts."""

    data: ProvenDataConfig
    all: bool = text(False, help="the project's own gate: its table of layouts instead of one config")
    quick: bool = text(False, help="with all=true: only the part of the gate that `make test` runs")
    only: str = text("", help="run only the layouts whose name contains this text")
    steps: int = number(20, least=1, help="optimizer steps of each layout")
    processes: int = number(8, least=1, most=64, help="most processes of one layout; a larger one is scaled down")
    jobs: int = number(1, least=1, help="layouts that run at once")
    timeout: float = number(300.0, above=0, help="seconds that one layout may take")
    first_loss_tolerance: float = number(2e-6, above=0, help="largest relative difference of the first step's loss, fp32")
    tolerance: float = number(1e-5, above=0, help="the same of every loss, gradient norm, gradient and parameter, fp32, norm-wise")
    output: str = text("", help="JSON file for the result; empty: proof.json in the run's folder if it is there, else here")

    def tolerances(self) -> dict[str, float]:
        """The largest relative difference of each quantity, fp32."""
        return {"first_loss": self.first_loss_tolerance, **dict.fromkeys(("gradient", "norm", "loss", "parameter"), self.tolerance)}
