"""`hexareme doctor`: looks at the machines of a run before it starts."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from typing import Any

from ...conf.compose import compose
from ...conf.doctor_schema import DoctorConfig
from ..doctor import rules, together
from ..doctor.ask import ask
from ..doctor.finding import Finding, Level
from ..doctor.survey import Request


def main(overrides: list[str]) -> int:
    """Prints every finding with what to do, the worst last.

    Returns:
        0: healthy; 1: an error was found, or with strict=true a warning.

    Raises:
        ConfigError, RunError: the machines cannot be asked at all.
    """
    config = compose("doctor", overrides)
    surveys, found = examine(config)
    show(found)
    if config.output:
        rows = [asdict(each) for each in found]
        Path(config.output).write_text(json.dumps({"findings": rows, "machines": surveys}, indent=1) + "\n")
    bad = {Level.error, Level.warning} if config.strict else {Level.error}
    return int(any(each.level in bad for each in found))


def examine(config: DoctorConfig) -> tuple[Sequence[dict[str, Any]], list[Finding]]:
    """Asks every machine, and judges what they say."""
    directory = Path(config.run.directory)
    place = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.is_dir())
    token = place / f".doctor-{token_hex(8)}"
    try:
        token.touch()
        seen = str(token)
    except OSError:
        seen = ""  # the disk's own finding says so
    request = Request(directory=config.run.directory, port=config.port, token=seen, speed=config.speed, ranks=config.cluster.ranks_per_node)
    began = time.time()
    try:
        answers = ask(config, request)
    finally:
        token.unlink(missing_ok=True)
    asked = (began, time.time())
    surveys = [answer for answer in answers if isinstance(answer, dict)]
    found = [each for each in answers if isinstance(each, Finding)]
    for facts in surveys:
        found += rules.findings(facts)
    found += together.findings(surveys, asked, expected_all_reduce=config.all_reduce_gigabytes * 1e9) if surveys else []
    order = {Level.ok: 0, Level.warning: 1, Level.error: 2}
    return surveys, sorted(found, key=lambda each: order[each.level])


def show(found: Sequence[Finding]) -> None:
    """One row for each, and how many there are of each kind."""
    from rich.console import Console
    from rich.table import Table

    colours = {Level.ok: "green", Level.warning: "yellow", Level.error: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    many = len({host for each in found for host in each.hosts}) > 1
    for each in found:
        head = f"{', '.join(each.hosts[:5])}: " if many and each.hosts else ""
        way_out = f"\n  do: {each.do}" if each.do else ""
        table.add_row(f"[{colours[each.level]}]{each.level.value}[/]", each.check, f"{head}{each.what}{way_out}")
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    counts = {level: sum(each.level is level for each in found) for level in Level}
    console.print(f"{counts[Level.error]} errors, {counts[Level.warning]} warnings")
