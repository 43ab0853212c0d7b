"""`starts.jsonl`: from which step and sample each start of a run went on, on which layout and with which order of its data. Pure.

config.yaml says what the newest start decided; a step may be of an earlier one, on other ranks or with another batch size.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..conf.dump import as_dict
from ..conf.schema import Config, RampUpConfig
from ..conf.sources import sources, stages
from .step_log import StepLog, decode, encode, whole_lines

FILE = "starts.jsonl"
DEGREES = ("tp", "pp", "cp", "ep")


def record_start(config: Config, *, step: int, samples_seen: int, world_size: int) -> None:
    """One line, and none of what this start does again.

    Args:
        config: of the run.
        step, samples_seen: done, as this start begins.
        world_size: ranks.

    Raises:
        StorageError: the disk is full or failing.
    """
    whole = as_dict(config)
    row = {"step": step, "samples_seen": samples_seen, "ranks": world_size, "parallel": {key: whole["parallel"][key] for key in DEGREES},
           "batch": whole["batch"], "data": {key: whole["data"][key] for key in ("train", "stages", "document_mask")},
           "seed": config.train.seed, "sequence_length": config.model.sequence_length}
    with StepLog(Path(config.run.directory) / FILE) as log:
        log.cut_after(step)
        log.append(encode(row))
        log.flush()


def start_of(directory: Path, step: int) -> Mapping[str, Any] | None:
    """The row of the start that made a step (counted from 1); None where none is recorded.

    Args:
        directory: of the run.
        step: as in `metrics.jsonl`.
    """
    path = directory / FILE
    rows = [row for line in whole_lines(path.read_bytes()) if (row := decode(line)) is not None] if path.is_file() else []
    return next((row for row in reversed(rows) if row["step"] < step), None)


def as_started(config: Config, row: Mapping[str, Any]) -> Config:
    """The newest config with what the start of a row had decided of layout, batch and order."""
    data, batch = row["data"], row["batch"]
    return replace(
        config,
        parallel=replace(config.parallel, **row["parallel"]),
        batch=replace(config.batch, **(batch | {"ramp_up": RampUpConfig(**batch["ramp_up"])})),
        data=replace(config.data, train=sources(data["train"]), stages=stages(data["stages"]), document_mask=data["document_mask"]),
        train=replace(config.train, seed=row["seed"]), model=replace(config.model, sequence_length=row["sequence_length"]))
