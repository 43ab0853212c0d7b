"""Runs the cases of a proof on forked ranks, several at once if asked, and judges each against its reference."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    wanted = {key: config for case in running for key, config in _references(case.config)}
    references: dict[str, Trace] = {}
    jobs = [_Job(key, "the reference", run_plain, 1, (config, limits.steps)) for key, config in wanted.items()]
    for key, found, _ in _run(jobs, limits, started):
        if isinstance(found, RankError):
            raise found
        references[key] = found[0]
    by_name = {case.name: case for case in running}
    jobs = [_Job(case.name, case.name, run_layout, case.processes,
                 (case.config, limits.steps, references[reference_key(case.config)].experts)) for case in running]
    for name, found, seconds in _run(jobs, limits, started):
        case = by_name[name]
        tolerances = _tolerances(case.config, references, limits.tolerances)
        verdict = Verdict(fault=found.cause) if isinstance(found, RankError) else judge(
            found, references[reference_key(case.config)], tolerances, skipped=zero_gradients(case.config))
        yield Row(case, verdict, tolerances, seconds)


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


def _references(config: Config) -> list[tuple[str, Config]]:
    """What must be run on one process for a case: its own precision, and fp32 to say how far that may be off."""
    exact = _in_fp32(config)
    return [(reference_key(each), each) for each in ([config] if exact is config else [config, exact])]


def _in_fp32(config: Config) -> Config:
    return config if config.train.precision is Precision.fp32 else replace(config, train=replace(config.train, precision=Precision.fp32))


def _tolerances(config: Config, references: Mapping[str, Trace], tolerances: Tolerances) -> Tolerances:
    exact = _in_fp32(config)
    if exact is config:
        return tolerances
    return widened(tolerances, references[reference_key(config)], references[reference_key(exact)], skipped=zero_gradients(config))


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
