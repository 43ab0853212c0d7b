"""`metrics.jsonl`: one JSON object for each optimizer step and each validation; a killed run loses at most the line it was writing.

Pure: imports neither torch nor a tracking library. Readers (tracking, report, watch) follow the file; the training loop only appends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .step_log import StepLog, decode, encode, whole_lines


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """What one optimizer step measured.

    Args:
        step: optimizer steps done, this one included.
        samples_seen, tokens_seen: since the beginning of the run, over all ranks.
        loss: mean over the unmasked tokens of the global batch, in nats.
        grad_norm: global norm before clipping.
        learning_rate: the one this step used.
        step_seconds: wall-clock time of the step.
        tokens_per_second: over all ranks.
        model_flops_utilization: part of the devices' peak, 0 to 1; None where the peak is unknown.
        memory_bytes: largest memory in use on this rank.
        stage_memory_bytes: the same of one rank for each place of the pipeline; written where there is one.
        routing: load of the experts and their losses, each under its own name; empty without experts.
        skipped: the step's numbers were not finite, and it changed nothing; written only where it is so.
        overflow: fp16 overflowed: the loss scale fell, and nothing else changed; written only where it is so.
    """

    step: int
    samples_seen: int
    tokens_seen: int
    loss: float
    grad_norm: float
    learning_rate: float
    step_seconds: float
    tokens_per_second: float
    model_flops_utilization: float | None
    memory_bytes: int
    stage_memory_bytes: Sequence[int] = ()
    routing: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False
    overflow: bool = False

    def fields(self) -> dict[str, Any]:
        """The line's entries."""
        found = {key: getattr(self, key) for key in STEP_KEYS}
        if len(self.stage_memory_bytes) > 1:
            found["stage_memory_bytes"] = list(self.stage_memory_bytes)
        found |= {key: True for key in OUTCOMES if getattr(self, key)}
        return found | dict(self.routing)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationMetrics:
    """What one validation after `step` measured: mean loss in nats per token, and its exponential."""

    step: int
    validation_loss: float
    validation_perplexity: float

    def fields(self) -> dict[str, Any]:
        """The line's entries."""
        return asdict(self)


OUTCOMES = ("skipped", "overflow")
STEP_KEYS = tuple(key for key in StepMetrics.__dataclass_fields__ if key not in ("stage_memory_bytes", "routing", *OUTCOMES))
VALIDATION_KEYS = tuple(ValidationMetrics.__dataclass_fields__)


class MetricsLog(StepLog):
    """`metrics.jsonl`: training and validation lines."""

    def validated(self, step: int) -> bool:
        """Whether the validation after a step stands there, which is the newest one."""
        for line in reversed(list(whole_lines(self.path.read_bytes()))):
            row = decode(line)
            if row is not None and (row["step"] < step or "validation_loss" in row):
                return bool(row["step"] == step)
        return False

    def record(self, metrics: StepMetrics | ValidationMetrics) -> None:
        """Append one line.

        Raises:
            StorageError: the disk is full or failing; the file still ends in a whole line.
        """
        self.append(encode(metrics.fields()))


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Every line of a metrics file as a dictionary; training lines have `loss`, validation lines `validation_loss`.

    A torn last line (the run was killed, or writes right now) is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line before the last is damaged.
    """
    rows = []
    lines = list(whole_lines(Path(path).read_bytes()))
    for number, line in enumerate(lines, start=1):
        row = decode(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}, line {number} is damaged: {line[:80]!r}; resume the run (it drops damaged lines) or delete the line")
    return rows


def is_training(row: Mapping[str, Any]) -> bool:
    """Whether a row is a step's line (a validation's otherwise)."""
    return "loss" in row
