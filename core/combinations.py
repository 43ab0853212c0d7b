"""The table of valid combinations for the documentation, asked of the very rules that refuse the others. Pure."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from ..conf.schema import Config, ContextAttention, Offload, OptimizerName, PipelineSchedule, Precision, Recompute
from ..parallel.stages import SPLIT_BACKWARD
from .combine import problems

RANKS = 16


@dataclass(frozen=True)
class Feature:
    """A row of the table, and a column.

    Args:
        name: in it.
        axis: features of one axis are alternatives to each other.
        enable: switches it on in a config that has none of the features.
    """

    name: str
    axis: str
    enable: Callable[[Config], None]


def _sets(name: str, axis: str, values: dict[str, object]) -> Feature:
    def enable(config: Config) -> None:
        for key, value in values.items():
            section, _, entry = key.partition(".")
            setattr(getattr(config, section), entry, value)

    return Feature(name, axis, enable)


def pipeline(schedule: PipelineSchedule, name: str = "") -> Feature:
    """A pipeline under one schedule."""
    virtual_stages = 2 if schedule.value.startswith("interleaved") else 1
    return _sets(name or schedule.value, "pp", {"parallel.pp": 2, "parallel.schedule": schedule, "parallel.virtual_stages": virtual_stages})


WHOLE, SPLIT = ([schedule for schedule in PipelineSchedule if (schedule.value in SPLIT_BACKWARD) is split] for split in (False, True))
FEATURES = (
    _sets("tensor", "tp", {"parallel.tp": 2, "parallel.sequence_parallel": False}),
    _sets("tensor and sequence", "tp", {"parallel.tp": 2}),
    *(pipeline(alike[0], "pipeline: " + ", ".join(alike)) for alike in (WHOLE, SPLIT)),
    _sets("context, ring", "cp", {"parallel.cp": 2}),
    _sets("context, ulysses", "cp", {"parallel.cp": 2, "parallel.context_attention": ContextAttention.ulysses}),
    _sets("experts", "ep", {"parallel.ep": 2, "model.num_experts": 4}),
    *(_sets(f"ZeRO-{stage}", "zero", {"parallel.zero": stage}) for stage in range(4)),
    _sets("offload optimizer", "offload", {"parallel.offload": Offload.optimizer}),
    _sets("offload all", "offload", {"parallel.offload": Offload.optimizer_and_parameters, "parallel.zero": 3}),
    _sets("recompute", "recompute", {"train.recompute": Recompute.full}),
    _sets("compile", "compile", {"train.compile": True}),
    _sets("bf16", "precision", {"train.precision": Precision.bf16}),
    _sets("fp16", "precision", {"train.precision": Precision.fp16}),
    _sets("Muon", "optimizer", {"optimizer.name": OptimizerName.muon, "parallel.zero": 0}),
)


def combinations_table(base: Config) -> str:
    """Markdown: every feature with every other, and the reason wherever two do not go together.

    Args:
        base: a config with none of the features, ZeRO-1, and sizes that 16 ranks divide.
    """
    head = "| | " + " | ".join(str(n) for n in range(1, len(FEATURES) + 1)) + " |"
    lines, notes = [head, "|---" * (len(FEATURES) + 1) + "|"], list[str]()
    for row, feature in enumerate(FEATURES):
        cells = [_cell(base, feature, other, notes) if column < row else "" for column, other in enumerate(FEATURES)]
        lines.append(f"| **{row + 1}** {feature.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{_letter(index)}. {note}" for index, note in enumerate(notes))])


def refusal(base: Config, *features: Feature) -> str | None:
    """Why the features do not go together; None where they do. Where two set one key, the later one does."""
    config = deepcopy(base)
    for feature in features:
        feature.enable(config)
    found = problems(config, world_size=RANKS)
    return f"`{found[0].key}` {found[0].message}" if found else None


def _cell(base: Config, feature: Feature, other: Feature, notes: list[str]) -> str:
    if feature.axis == other.axis:
        return "·"
    reason = refusal(base, feature, other)
    if reason is None:
        return "yes"
    if reason not in notes:
        notes.append(reason)
    return _letter(notes.index(reason))


def _letter(index: int) -> str:
    return chr(ord("a") + index)
