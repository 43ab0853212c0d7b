"""Which batch ramp-ups, data stages and objectives a run can have. Pure."""

from collections.abc import Iterator

from ..conf.errors import Problem
from ..conf.objective_schema import ObjectiveName
from ..conf.schema import Config
from ..conf.sources import STAGES, stages
from ..parallel.topology import divisors
from .batch import nearest_multiples, ramp_up_of


def ramp_up_rules(config: Config, unit: int) -> Iterator[Problem]:
    """A ramp-up must lead to the global size in whole steps, and each of its sizes must be divisible.

    Args:
        config: of the run.
        unit: samples of one micro-batch on all data ranks.
    """
    ramp, size = config.batch.ramp_up, config.batch.global_size
    if not ramp.start:
        for name in ("increment", "samples"):
            if getattr(ramp, name):
                yield Problem(f"batch.ramp_up.{name}", getattr(ramp, name), "has no effect without batch.ramp_up.start",
                              f"set batch.ramp_up.start={unit or 1}, or leave batch.ramp_up out")
        return
    missing = [name for name in ("increment", "samples") if not getattr(ramp, name)]
    for name in missing:
        yield Problem(f"batch.ramp_up.{name}", 0, "is needed for a ramp-up",
                      "give all three, as in batch.ramp_up={start: 32, increment: 32, samples: 100000}")
    if missing:
        return
    if ramp.start > size or (size - ramp.start) % ramp.increment:
        steps = [each for each in divisors(size - ramp.start) if each % max(1, unit) == 0] if size > ramp.start else []
        yield Problem("batch.ramp_up.increment", ramp.increment, f"does not lead from batch.ramp_up.start={ramp.start} to "
                      f"batch.global_size={size}", f"try batch.ramp_up.increment in {steps}" if steps else "set another start")
        return
    for name in ("start", "increment"):
        value = getattr(ramp, name)
        if unit and size % unit == 0 and value % unit:
            near = " or ".join(map(str, nearest_multiples(value, unit)))
            yield Problem(f"batch.ramp_up.{name}", value, f"makes steps that are not batch.micro_size={config.batch.micro_size} x "
                          f"accumulation steps x dp={unit // config.batch.micro_size}", f"try batch.ramp_up.{name}={near}")


def step_sizes(config: Config) -> list[int]:
    """Every size that a step of the run may have; the global size alone where the ramp-up is not possible."""
    try:
        return ramp_up_of(config.batch).sizes(config.batch.global_size)
    except ValueError:
        return [config.batch.global_size]


def stage_rules(config: Config) -> Iterator[Problem]:
    """Stages must begin within the run, and cut samples evenly."""
    length = config.model.sequence_length
    for stage in stages(config.data.stages):
        if stage.from_step >= config.train.steps:
            yield Problem(STAGES, stage.from_step, f"has a stage that never begins: train.steps={config.train.steps}",
                          "lower its from_step, or leave it out")
        piece = stage.sequence_length
        if piece and length % piece:
            fitting = [each for each in divisors(length) if each > 1]
            yield Problem(STAGES, piece, f"has a sequence_length that does not cut model.sequence_length={length} into equal pieces",
                          f"try sequence_length in {sorted(sorted(fitting, key=lambda each: abs(each - piece))[:4])}")
        elif piece and piece < length and not config.data.document_mask:
            yield Problem(STAGES, piece, "has a sequence_length below the model's, and data.document_mask=false: nothing would keep the "
                          "pieces of a sample apart", "set data.document_mask=true, or leave the sequence_length out")


SENTINELS_OF = {ObjectiveName.fill_in_the_middle: 3, ObjectiveName.masked_tokens: 1}


def objective_rules(config: Config) -> Iterator[Problem]:
    """Masked tokens need a model that sees both sides; sentinels are names or ids, each once, and as many as the objective has."""
    objective = config.data.objective
    key, sentinels = "data.objective.sentinels", objective.sentinels
    if objective.name is ObjectiveName.masked_tokens:
        yield Problem("data.objective.name", objective.name.value, "needs bidirectional attention, which comes with a later release",
                      "use causal, fill_in_the_middle or span_corruption")
    odd = any(isinstance(each, bool) or not isinstance(each, str | int) for each in sentinels)
    if odd or len(set(map(str, sentinels))) < len(sentinels):
        yield Problem(key, sentinels, "must be names of special tokens or ids, each of them once", "correct the list, or leave it out")
    needed = SENTINELS_OF.get(objective.name)
    if sentinels and needed and len(sentinels) != needed:
        yield Problem(key, sentinels, f"has {len(sentinels)} entries, and data.objective.name={objective.name.value} has {needed}",
                      f"give {needed}, or leave it out")
    if sentinels and objective.name is ObjectiveName.causal:
        yield Problem(key, sentinels, "has no effect under data.objective.name=causal", "leave it out, or set data.objective.name")
