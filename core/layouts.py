"""The one table of layouts: which axes, ZeRO stages and schedules go together, and why the others do not. Pure.

Every rule yields a problem with its reason; the way out is found by search: the nearest layout of the same ranks that breaks no rule.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from itertools import product
from math import log2, prod

from ..conf.errors import Problem
from ..conf.schema import Config, ContextAttention, Offload, OptimizerName, ParallelConfig, PipelineSchedule, Precision, Recompute
from ..parallel.stages import SPLIT_BACKWARD, micro_batch_fault, stages_per_rank
from ..parallel.topology import divisors
from .batch import nearest_multiples
from .data_rules import step_sizes
from .expert_rules import expert_layout_rules, expert_width

INTERLEAVED = (PipelineSchedule.interleaved_1f1b, PipelineSchedule.interleaved_zero_bubble)
V_SHAPED = (PipelineSchedule.zbv, PipelineSchedule.dualpipev)


def data_degree(config: Config, world_size: int) -> int:
    """The data-parallel degree: what the other axes leave of the world size; 0 where they need more ranks than there are."""
    return world_size // prod((config.parallel.tp, config.parallel.pp, config.parallel.cp))


def layout_problems(config: Config, world_size: int) -> list[Problem]:
    """Why this layout cannot run, each with the nearest one that can."""
    found = list(_problems(config, world_size))
    if not found:
        return []
    way = nearest_layout(config, world_size)
    return [replace(problem, do=f"{problem.do}; nearest valid layout of {world_size} ranks: {way}" if way and way not in problem.do
                    else problem.do) for problem in found]


def _problems(config: Config, world_size: int) -> Iterator[Problem]:
    yield from grid_rules(config, world_size)
    yield from tensor_rules(config)
    yield from context_rules(config)
    yield from pipeline_rules(config, world_size)
    yield from expert_rules(config, world_size)
    yield from zero_rules(config)


def grid_rules(config: Config, world_size: int) -> Iterator[Problem]:
    """The degrees must fill the ranks."""
    p = config.parallel
    ranks = prod((p.tp, p.pp, p.cp))
    if world_size % ranks:
        factors = " x ".join(f"{name}={degree}" for name, degree in (("tp", p.tp), ("pp", p.pp), ("cp", p.cp)) if degree > 1)
        axis = max(("tp", "pp", "cp"), key=lambda name: getattr(p, name))
        yield Problem(f"parallel.{axis}", getattr(p, axis), f"cannot be laid out: {factors} = {ranks} does not divide the world size "
                      f"{world_size}", f"start {nearest_multiples(world_size, ranks)[-1]} ranks")


def tensor_rules(config: Config) -> Iterator[Problem]:
    """Each tensor rank gets whole heads and an equal part of every MLP; under sequence parallelism an equal part of the sequence."""
    p, m = config.parallel, config.model
    uneven = [(key, size) for key, size in tensor_sizes(config) if size % p.tp]
    if m.num_kv_heads % p.tp and p.tp % m.num_kv_heads:
        uneven.append(("num_kv_heads", m.num_kv_heads))
    if uneven:
        names = " and ".join(f"model.{key}={size}" for key, size in uneven)
        yield Problem("parallel.tp", p.tp, f"does not divide {names}", f"try parallel.tp in {tensor_degrees(config)}")
    part = m.sequence_length // p.cp
    if p.sequence_parallel and p.tp > 1 and part % p.tp:
        yield Problem("parallel.sequence_parallel", True, f"cuts {part} tokens over parallel.tp={p.tp}, which does not divide them",
                      "set parallel.sequence_parallel=false, or model.sequence_length="
                      + " or ".join(map(str, nearest_multiples(m.sequence_length, p.tp * context_unit(p)))))


def tensor_sizes(config: Config) -> Iterator[tuple[str, int]]:
    """The sizes that a tensor degree must divide, by key."""
    yield "num_heads", config.model.num_heads
    yield "ffn_hidden_size", config.model.ffn_hidden_size


def tensor_degrees(config: Config) -> list[int]:
    """The tensor degrees that fit the model."""
    kv, experts = config.model.num_kv_heads, expert_width(config.model) if config.model.num_experts else 0
    return [tp for tp in divisors(config.model.num_heads)
            if all(size % tp == 0 for _, size in tensor_sizes(config)) and (kv % tp == 0 or tp % kv == 0) and experts % tp == 0]


def context_unit(p: ParallelConfig) -> int:
    """What the sequence length must be a multiple of: ring attention cuts it into two pieces for each rank (zig-zag)."""
    return 1 if p.cp == 1 else 2 * p.cp if p.context_attention is ContextAttention.ring else p.cp


def context_rules(config: Config) -> Iterator[Problem]:
    """Each context rank gets an equal part of the sequence, and under Ulysses of the heads."""
    p, m = config.parallel, config.model
    unit = context_unit(p)
    if m.sequence_length % unit:
        near = " or ".join(map(str, nearest_multiples(m.sequence_length, unit)))
        pieces = f"{unit} equal pieces" + (" (two a rank, so that the causal work is balanced)" if unit > p.cp else "")
        yield Problem("model.sequence_length", m.sequence_length, f"is not divisible into {pieces} for parallel.cp={p.cp}",
                      f"try model.sequence_length={near}")
    heads = m.num_heads // p.tp
    if p.cp > 1 and p.context_attention is ContextAttention.ulysses and heads % p.cp:
        yield Problem("parallel.context_attention", p.context_attention, f"exchanges heads, and parallel.cp={p.cp} does not divide the "
                      f"{heads} heads of a tensor rank", "set parallel.context_attention=ring")


def pipeline_rules(config: Config, world_size: int) -> Iterator[Problem]:
    """What each schedule needs, and what none can carry."""
    p, m, schedule = config.parallel, config.model, config.parallel.schedule.value
    if p.pp == 1:
        for key, value, off in (("virtual_stages", p.virtual_stages, 1), ("stage_layers", p.stage_layers, [])):
            if value != off:
                yield Problem(f"parallel.{key}", value, "needs a pipeline, and parallel.pp=1",
                              f"set parallel.pp, or leave parallel.{key} out")
        return
    if p.schedule in INTERLEAVED and p.virtual_stages < 2:
        yield Problem("parallel.virtual_stages", p.virtual_stages, f"is too few: {schedule} interleaves two or more stages on each rank",
                      "set parallel.virtual_stages=2")
    elif p.schedule not in INTERLEAVED and p.virtual_stages not in (1, stages_per_rank(schedule, p.virtual_stages)):
        own = stages_per_rank(schedule, 1)
        yield Problem("parallel.virtual_stages", p.virtual_stages, f"does not go with {schedule}, which puts {own} on each rank",
                      "set parallel.virtual_stages=1, or parallel.schedule=interleaved_1f1b")
    stages = p.pp * stages_per_rank(schedule, p.virtual_stages)
    if m.num_layers < stages:
        yield Problem("parallel.pp", p.pp, f"makes {stages} stages under {schedule}, and model.num_layers={m.num_layers}",
                      f"use at most {m.num_layers} stages")
    if p.stage_layers and (len(p.stage_layers) != stages or sum(p.stage_layers) != m.num_layers or min(p.stage_layers) < 1):
        yield Problem("parallel.stage_layers", p.stage_layers, f"must be {stages} numbers of at least 1 that add up to "
                      f"model.num_layers={m.num_layers}", "leave it out, and the stages are balanced by cost")
    yield from schedule_rules(config, world_size)


def schedule_rules(config: Config, world_size: int) -> Iterator[Problem]:
    """The number of micro-batches, and what a split backward pass excludes."""
    p, t, schedule = config.parallel, config.train, config.parallel.schedule.value
    unit = config.batch.micro_size * max(1, data_degree(config, world_size))
    for size in step_sizes(config):
        fault = micro_batch_fault(schedule, pp=p.pp, virtual_stages=p.virtual_stages, micro_batches=size // unit)
        if size % unit == 0 and fault is not None:
            reason, nearest = fault
            if size == config.batch.global_size:
                way = f"try {' or '.join(f'batch.global_size={count * unit}' for count in nearest)}"
            else:
                way = (f"let batch.ramp_up make steps of {' or '.join(str(count * unit) for count in nearest)} samples, not of {size}: "
                       "another start or increment")
            yield Problem("parallel.schedule", schedule, f"with {size // unit} micro-batches a step: {reason}", way)
            break
    if schedule in SPLIT_BACKWARD:
        whole = "interleaved_1f1b" if p.schedule in INTERLEAVED else "1f1b"
        if t.recompute is not Recompute.none:
            yield Problem("train.recompute", t.recompute, f"does not go with {schedule}, which splits the backward pass: it would "
                          "recompute for the input gradient and again for the weights",
                          f"set parallel.schedule={whole}, or train.recompute=none")
        if t.compile:
            yield Problem("train.compile", True, f"does not go with {schedule}, which splits the backward pass: a compiled block's runs "
                          "whole", f"set parallel.schedule={whole}, or train.compile=false")
    if t.precision is Precision.fp16:
        yield Problem("train.precision", t.precision, f"does not go with parallel.pp={p.pp}: the loss scale is not carried through a "
                      "pipeline schedule", "set train.precision=bf16")


def expert_rules(config: Config, world_size: int) -> Iterator[Problem]:
    """Experts are cut evenly over the expert axis, which lies inside the data and context axes."""
    p = config.parallel
    replicas = data_degree(config, world_size) * p.cp
    yield from expert_layout_rules(config)
    if replicas and replicas % p.ep:
        yield Problem("parallel.ep", p.ep, f"does not divide dp x cp = {replicas}", f"try parallel.ep in {divisors(replicas)}")
    if config.model.num_experts and config.optimizer.name is OptimizerName.muon:
        yield Problem("optimizer.name", config.optimizer.name, "does not go with experts: their matrices lie stacked in one",
                      "take optimizer=adamw")


def zero_rules(config: Config) -> Iterator[Problem]:
    """What ZeRO stages and offload can carry."""
    p = config.parallel
    if p.pp > 1 and p.zero != 1:
        reason = ("DeepSpeed reduces gradients inside its own backward pass there, and the schedule runs another" if p.zero == 0 else
                  "gradients would be given away while the schedule still accumulates into them")
        yield Problem("parallel.zero", p.zero, f"does not go with parallel.pp={p.pp}: {reason}", "set parallel.zero=1")
    if p.ep > 1 and p.zero == 3:
        yield Problem("parallel.zero", 3, f"does not go with parallel.ep={p.ep}: DeepSpeed would cut experts over ranks that hold others",
                      "set parallel.zero=2")
    if p.offload is Offload.none:
        return
    if p.offload is Offload.optimizer and p.zero < 1:
        yield Problem("parallel.offload", p.offload, f"needs a ZeRO stage of 1 or more, and parallel.zero={p.zero}", "set parallel.zero=1")
    if p.offload is Offload.optimizer_and_parameters and p.zero < 3:
        yield Problem("parallel.offload", p.offload, f"needs ZeRO stage 3, and parallel.zero={p.zero}",
                      "set parallel.zero=3, or parallel.offload=optimizer")
    for axis, degree in (("pp", p.pp), ("ep", p.ep)):
        if degree > 1:
            yield Problem("parallel.offload", p.offload, f"does not go with parallel.{axis}={degree}: gradients that lie in host memory "
                          "are not where the norm of that axis is taken", "set parallel.offload=none")


def nearest_layout(config: Config, world_size: int) -> str:
    """The layout of as many ranks that breaks no rule and changes least, as overrides; empty where there is none."""
    trial = copy(config)
    candidates = sorted(_candidates(config, world_size), key=lambda candidate: _distance(config.parallel, candidate))
    for candidate in candidates:
        trial.parallel = candidate
        if next(_problems(trial, world_size), None) is None:
            return _overrides(config.parallel, candidate, world_size)
    return ""


def _candidates(config: Config, world_size: int) -> Iterator[ParallelConfig]:
    p = config.parallel
    tensor = [tp for tp in tensor_degrees(config) if world_size % tp == 0]
    experts = divisors(config.model.num_experts) if config.model.num_experts else [1]
    for tp, pp, cp, ep in product(tensor, divisors(world_size), divisors(world_size), experts):
        if world_size % (tp * pp * cp):
            continue
        schedules = [p.schedule, *((PipelineSchedule.one_f_one_b,) if p.schedule is not PipelineSchedule.one_f_one_b else ())]
        for schedule, zero, keep in product(schedules if pp > 1 else schedules[:1], dict.fromkeys((p.zero, 1, 2)), (True, False)):
            virtual = max(2, p.virtual_stages) if schedule in INTERLEAVED and pp > 1 else 1
            yield replace(p, tp=tp, pp=pp, cp=cp, ep=ep, schedule=schedule, zero=zero, virtual_stages=virtual,
                          stage_layers=p.stage_layers if keep and pp > 1 else [], offload=p.offload if keep else Offload.none,
                          sequence_parallel=p.sequence_parallel and keep)


def _distance(wanted: ParallelConfig, candidate: ParallelConfig) -> tuple[float, int]:
    """Doubling or halving an axis counts one, giving up a setting half."""
    degrees = sum(abs(log2(getattr(candidate, axis) / getattr(wanted, axis))) for axis in ("tp", "pp", "cp", "ep"))
    settings = sum(getattr(candidate, key) != getattr(wanted, key)
                   for key in ("zero", "schedule", "offload", "sequence_parallel", "stage_layers", "virtual_stages"))
    return degrees + settings / 2, candidate.pp


def _overrides(wanted: ParallelConfig, candidate: ParallelConfig, world_size: int) -> str:
    """The degrees and whatever else must change."""
    keys = [key for key in ("tp", "pp", "cp", "ep") if getattr(candidate, key) > 1 or getattr(wanted, key) > 1]
    keys += [key for key in ("zero", "schedule", "virtual_stages", "offload", "sequence_parallel", "stage_layers")
             if getattr(candidate, key) != getattr(wanted, key)]
    dp = world_size // (candidate.tp * candidate.pp * candidate.cp)
    return " ".join(f"parallel.{key}={_shown(getattr(candidate, key))}" for key in keys) + f" (dp={dp})"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
