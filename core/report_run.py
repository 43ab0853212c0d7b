"""What a run folder tells: read once, as columns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .metrics import is_training, read_metrics

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What a run folder tells: its rows as columns, how it ended, and its config as text."""

    name: str
    folder: Path
    training: dict[str, Array]
    validation: dict[str, Array]
    non_finite_steps: int
    exit: dict[str, Any]
    config: str

    @property
    def steps(self) -> Array:
        """Step of each training row."""
        return self.training["step"]


def read_run(folder: Path | str) -> Run:
    """Read a finished or running run.

    Raises:
        FileNotFoundError: the folder holds no `metrics.jsonl`.
        ValueError: the file is damaged.
    """
    folder = Path(folder)
    path = folder / "metrics.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    rows = read_metrics(path)
    training = [row for row in rows if is_training(row)]
    validation = [row for row in rows if not is_training(row)]
    ended, config = folder / "exit.json", folder / "config.yaml"
    return Run(
        name=folder.resolve().name, folder=folder,
        training=_columns(training, ("step", "loss", "grad_norm", "learning_rate", "step_seconds", "tokens_seen", "tokens_per_second",
                                     "model_flops_utilization", "memory_bytes")),
        validation=_columns(validation, ("step", "validation_loss", "validation_perplexity")),
        non_finite_steps=sum("non_finite" in row for row in training),
        exit=json.loads(ended.read_text()) if ended.exists() else {},
        config=config.read_text() if config.exists() else "",
    )


def _columns(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, Array]:
    """Columns of the same length; what is null or missing is NaN."""
    return {key: np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=np.float64) for key in keys}
