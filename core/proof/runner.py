"""Runs the cases of a proof on forked ranks, several at once if asked, and judges each against its reference."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from ...conf.dump import as_dict
from ...conf.schema import Config, OptimizerName, Positions, Precision
from ..forked_ranks import ForkedRanks, RankError, wait_for_any
from .compare import Tolerances, Verdict, judge, widened
from .layouts import Case, Expected
from .ranks import run_layout, run_plain
from .trace import Trace

# Of a config, what makes no difference to one process and its loss: the layout, and how a step is cut and computed.
LAYOUT_KEYS = {"parallel": (), "cluster": (), "run": (), "checkpoint": (), "tracking": (), "evaluation": (),
               "batch": ("micro_size",), "train": ("recompute", "compile", "reduce_precision", "deterministic")}
REFERENCE = "the reference"
CUTS = (" in one", " in micro-batches of 1")  # how the steps of a reference in low precision are cut


@dataclass(frozen=True)
class Limits:
    """How a proof runs.

    Args:
        steps: optimizer steps.
        timeout: seconds for one layout.
        jobs: cases at once.
        tolerances: of fp32.
    """

    steps: int
    timeout: float
    jobs: int
    tolerances: Tolerances


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        case: the layout.
        verdict: None where the layout is refused.
        tolerances: that it was held to.
        seconds: it took.
    """

    case: Case
    verdict: Verdict | None
    tolerances: Tolerances = field(default_factory=dict)
    seconds: float = 0.0


def prove(cases: Sequence[Case], limits: Limits, *, started: Callable[[str], None]) -> Iterator[Row]:
    """Rows in the order in which the layouts finish; the refused ones first.

    Args:
        cases: to run.
        limits: how.
        started: is told the name of each case as it starts, references among them.
    """
    yield from (_not_run(case) for case in cases if case.refused or case.expected is Expected.refused)
    running = [case for case in cases if not case.refused and case.expected is not Expected.refused]
    references = _references(running, limits, started)
    by_name = {case.name: case for case in running}
    jobs = [_Job(case.name, case.name, run_layout, case.processes,
                 (case.config, limits.steps, references[reference_key(in_fp32(case.config))].experts)) for case in running]
    for name, found, seconds in _run(jobs, limits, started):
        case = by_name[name]
        exact, skipped = references[reference_key(in_fp32(case.config))], zero_gradients(case.config)
        tolerances = limits.tolerances
        if is_low(case.config):
            low = [references[reference_key(case.config) + cut] for cut in CUTS]
            tolerances = widened(tolerances, low, exact, skipped=skipped)
        verdict = Verdict(fault=found.cause, report=str(found)) if isinstance(found, RankError) else judge(
            found, exact, tolerances, skipped=skipped, exact=not is_low(case.config))
        yield Row(case, verdict, tolerances, seconds)


def _references(cases: Sequence[Case], limits: Limits, started: Callable[[str], None]) -> dict[str, Trace]:
    """One process in fp32 for each model; then, with the same experts, those in low precision that say how far that may be off."""
    exact = {reference_key(config): config for config in (in_fp32(case.config) for case in cases)}
    jobs = [_Job(key, REFERENCE, run_plain, 1, (config, limits.steps, config.batch.global_size)) for key, config in exact.items()]
    found = _traces(jobs, limits, started)
    jobs = []
    for key, config in {reference_key(case.config): case.config for case in cases if is_low(case.config)}.items():
        experts = found[reference_key(in_fp32(config))].experts
        for cut, size in zip(CUTS, (config.batch.global_size, 1), strict=True):
            name = f"{REFERENCE} in {config.train.precision.value}"
            jobs.append(_Job(key + cut, name, run_plain, 1, (config, limits.steps, size, experts)))
    return found | _traces(jobs, limits, started)


def _traces(jobs: Sequence["_Job"], limits: Limits, started: Callable[[str], None]) -> dict[str, Trace]:
    found = {}
    for key, result, _ in _run(jobs, limits, started):
        if isinstance(result, RankError):
            raise result
        found[key] = result[0]
    return found


def _not_run(case: Case) -> Row:
    """A refused layout is no finding, unless it must run; one that must be refused and is not, is one."""
    if not case.refused:
        return Row(case, Verdict(fault="is not refused, and must be"))
    return Row(case, Verdict(fault=f"is refused, and must run: {case.refused}") if case.expected is Expected.runs else None)


def reference_key(config: Config) -> str:
    """Equal for configs that one process trains alike."""
    whole = as_dict(config)
    for section, keys in LAYOUT_KEYS.items():
        whole[section] = {name: value for name, value in whole[section].items() if keys and name not in keys}
    return json.dumps(whole, sort_keys=True, default=str)


def zero_gradients(config: Config) -> dict[str, slice]:
    """Rows whose gradient is identically zero, where the optimizer divides by its size: there only rounding decides the update.

    A bias of the keys adds the same to every score of a query, and the softmax does not see it; with rotary positions it does.
    """
    m = config.model
    if config.optimizer.name is OptimizerName.sgd or not m.bias or m.positions is Positions.rope:
        return {}
    head_size = m.hidden_size // m.num_heads
    keys = slice(m.hidden_size, m.hidden_size + m.num_kv_heads * head_size)
    return {f"blocks.{layer}.attention.qkv.bias": keys for layer in range(m.num_layers)}


def is_low(config: Config) -> bool:
    """Whether products or reductions run in less than fp32."""
    return (config.train.precision, config.train.reduce_precision) != (Precision.fp32, Precision.fp32)


def in_fp32(config: Config) -> Config:
    """The same run in fp32."""
    return replace(config, train=replace(config.train, precision=Precision.fp32, reduce_precision=Precision.fp32))


@dataclass
class _Job:
    key: str
    name: str
    function: Callable[..., Any]
    processes: int
    arguments: tuple[Any, ...]


def _run(jobs: Sequence[_Job], limits: Limits, started: Callable[[str], None]) -> Iterator[tuple[str, Any, float]]:
    """Key, what all ranks returned or the error, and seconds, of each job as it ends."""
    waiting, running = list(jobs), list[tuple[_Job, ForkedRanks, float, ExitStack]]()
    with ExitStack() as everything:
        while waiting or running:
            while waiting and len(running) < limits.jobs:
                job = waiting.pop(0)
                started(job.name)
                stack = everything.enter_context(ExitStack())
                ranks = ForkedRanks(job.function, job.processes, *job.arguments, timeout=limits.timeout, quiet=True)
                running.append((job, stack.enter_context(ranks), time.monotonic(), stack))
            wait_for_any([ranks for _, ranks, _, _ in running])
            for entry in [entry for entry in running if entry[1].finished]:
                job, ranks, begin, stack = entry
                running.remove(entry)
                with stack:
                    yield job.key, _results(ranks), time.monotonic() - begin


def _results(ranks: ForkedRanks) -> list[Trace] | RankError:
    try:
        return ranks.results()
    except RankError as error:
        return error
