"""Runs the cases of a suite one after the other on forked ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..engine.warm import warm_up
from ..forked_ranks import RankError, run_ranks
from .bubble import Setup, bubble_rows, comparison, measure_bubble
from .bytes import measure_bytes
from .checkpoint import LIMIT as CHECKPOINT
from .checkpoint import Setting, measure_checkpoint
from .data import DATA, DataSetting, measure_data
from .memory import measure_memory
from .suites import BUBBLE, BYTES, BYTES_CASES, MEMORY, MEMORY_CASES, QUICK_SCHEDULES, SETUPS, Case
from .table import Limit, Row, worst
from .tokenize import TOKENIZE, TokenizeSetting, measure_tokenize

ATTEMPTS = 3  # at a bubble: whatever else the machine does can only make it larger
PATIENCE = 1800.0  # seconds for a case; a slow machine needs one


@dataclass(frozen=True)
class Finding:
    """What one case gave.

    Args:
        case: its name.
        rows: measured and theory.
        limit: what is demanded of them.
        failure: why there are no rows.
    """

    case: str
    rows: Sequence[Row]
    limit: Limit
    failure: str = ""

    @property
    def holds(self) -> bool:
        """Whether every row is within the limit."""
        return not self.failure and all(self.limit.holds(row) for row in self.rows)


Work = tuple[str, Callable[[], Finding]]


def work_of(suite: str, *, quick: bool, only: str, pass_seconds: float) -> list[Work]:
    """The cases of a suite: name, and what measures it.

    Args:
        suite: bytes, memory or bubble.
        quick: only the part that every test run takes.
        only: part of the names of the cases that are wanted; empty: all.
        pass_seconds: bubble: what a pass through a stage takes.
    """
    if suite == "bubble":
        setups = [replace(setup, seconds=pass_seconds) for setup in SETUPS if not quick or setup.schedule in QUICK_SCHEDULES]
        work: list[Work] = [(setup.schedule, partial(best_bubble, setup)) for setup in setups]
    else:
        cases, measure, limit = (BYTES_CASES, measure_bytes, BYTES) if suite == "bytes" else (MEMORY_CASES, measure_memory, MEMORY)
        work = [(case.name, partial(_run, case, measure, limit)) for case in cases if case.quick or not quick]
    return [(name, step) for name, step in work if only.lower() in name.lower()]


def checkpoint_work(setting: Setting) -> list[Work]:
    """The one case of suite=checkpoint."""
    name = f"{setting.state_bytes / 1e9:g} GB on {setting.ranks} rank(s) in {setting.folder.parent}"
    return [(name, partial(_measured, name, measure_checkpoint, setting.ranks, (setting,), CHECKPOINT))]


def data_work(setting: DataSetting) -> list[Work]:
    """The one case of suite=data."""
    name = f"{setting.tokens / 1e6:g} M tokens in {setting.documents:,} documents, sequence length {setting.sequence_length}"
    return [(name, partial(_measured, name, measure_data, 1, (setting,), DATA))]


def tokenize_work(setting: TokenizeSetting) -> list[Work]:
    """The one case of suite=tokenize."""
    name = f"{setting.text_bytes / 1e9:g} GB of text, byte-level BPE"
    return [(name, partial(_measured, name, measure_tokenize, 1, (setting,), TOKENIZE))]


def findings(work: Sequence[Work], progress: Callable[[str], None]) -> Iterator[Finding]:
    """Measures one case after the other; at the end what compares them.

    Args:
        work: from `work_of`.
        progress: told what begins.
    """
    warm_up()
    bubbles: list[Row] = []
    for number, (name, measure) in enumerate(work, start=1):
        progress(f"[{number}/{len(work)}] {name}")
        found = measure()
        if found.limit is BUBBLE:
            bubbles += found.rows
        yield found
    if compared := comparison(bubbles):
        yield Finding("comparison", compared, BUBBLE)


def _run(case: Case, measure: Callable[..., Any], limit: Limit) -> Finding:
    return _measured(case.name, measure, case.ranks, (case.config(), case.ranks), limit)


def _measured(name: str, measure: Callable[..., Any], ranks: int, arguments: Sequence[Any], limit: Limit) -> Finding:
    try:
        found = run_ranks(measure, ranks, *arguments, timeout=PATIENCE, quiet=True)
    except RankError as error:
        return Finding(name, [], limit, failure=error.cause)
    return Finding(name, worst(found, limit), limit)


def best_bubble(setup: Setup) -> Finding:
    """The best of a few attempts, or the first one within the limit; in each, passes take twice as long as in the one before.

    So what messages and a busy machine add weighs half as much.

    Args:
        setup: the first attempt.
    """
    found: list[Finding] = []
    for attempt in range(ATTEMPTS):
        longer = replace(setup, seconds=setup.seconds * 2**attempt)
        try:
            rows = bubble_rows(longer, run_ranks(measure_bubble, setup.ranks, longer, timeout=PATIENCE, quiet=True))
        except RankError as error:
            return Finding(setup.schedule, [], BUBBLE, failure=error.cause)
        found.append(Finding(setup.schedule, rows, BUBBLE))
        if found[-1].holds:
            break
    return min(found, key=lambda finding: finding.rows[0].measured)
