"""`<run>/slurm/history.jsonl`: what became of each start of a run under Slurm. It outlives the job and counts futile restarts."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.errors import Preempted
from .script import FOLDER

FILE_NAME = "history.jsonl"
SUBMITTED, STARTED, ENDED = "submitted", "started", "ended"


class History:
    """The rows of a run, oldest first.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FOLDER / FILE_NAME

    def rows(self) -> list[dict[str, Any]]:
        """What is written there; a line that was cut short by a power failure is passed over."""
        found: list[dict[str, Any]] = []
        with suppress(FileNotFoundError):
            for line in self.path.read_text(errors="replace").splitlines():
                with suppress(ValueError):
                    row = json.loads(line)
                    if isinstance(row, dict):
                        found.append(row)
        return found

    def add(self, event: str, row: Mapping[str, Any]) -> None:
        """One more row, in one write: jobs on several nodes may write at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "time": round(time.time(), 3), **row}) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def futile_restarts(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many starts in a row, up to the last one, were restarts after a crash that brought no newer checkpoint. Pure.

    A start without an end is one whose node was lost: a crash. A preemption is none. Whoever submits anew begins anew.

    Args:
        rows: of a history.
    """
    count, before, ended = 0, None, None
    for row in rows:
        event = row.get("event")
        if event == SUBMITTED:
            count, before, ended = 0, None, None
        elif event == ENDED:
            ended = row.get("code")
        elif event == STARTED:
            step = row.get("step", 0)
            if before is not None and ended != Preempted.exit_code:
                count = count + 1 if step <= before else 0
            before, ended = step, None
    return count
