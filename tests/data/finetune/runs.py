"""`prepare task=` in a process of its own, to be killed; and the records for it."""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from hexareme.data.finetune import windows
from hexareme.data.finetune.prepare import PreparedTask, prepare_task
from hexareme.data.finetune.settings import TaskRecipe

from tests.data.prepare.runs import Run, main

from .conftest import conversations, source_text, write_lines


@dataclass
class TaskRun(Run):
    """One call of `prepare_task`, as often as wanted.

    Args:
        window: tokens that are packed together, so few that there are many windows.
    """

    window: int = 3000

    def here(self, **settings: Any) -> PreparedTask:
        with patch.object(windows, "WINDOW_TOKENS", self.window):
            return prepare_task(self.inputs, self.output, TaskRecipe(**self.recipe), workers=self.workers,
                                **{"journal_seconds": 0.0, **settings})


def task_records(kind: str, count: int) -> list[dict[str, Any]]:
    """Of the standard library's words; no two alike."""
    draw, words = random.Random(kind), source_text().split()

    def text() -> str:
        return " ".join(draw.choices(words, k=10))

    if kind == "chat":
        return conversations(count, median=6)
    if kind == "classification":
        return [{"text": f"{n} {text()}", "label": draw.choice(["few", "many", 7, True])} for n in range(count)]
    return [{"prompt": f"{n} {text()}", "chosen": text(), "rejected": text()} for n in range(count)]


def task_files(folder: Path, kind: str) -> list[str]:
    """400 records in eight files, each at least one chunk, of three formats; one of them is bad."""
    records = task_records(kind, 400)
    parts = [records[n : n + 50] for n in range(0, 400, 50)]
    files = [write_lines(folder / f"{n}.jsonl", part) for n, part in enumerate(parts[:6])]
    with files[3].open("a") as stream:
        stream.write("{\n")
    files += [folder / "6.jsonl.gz", folder / "7.parquet"]
    files[6].write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in parts[6]).encode(), mtime=0))
    rows = [{**record, "label": str(record.get("label"))} for record in parts[7]]
    pq.write_table(pa.Table.from_pylist(rows), files[7], row_group_size=20)
    return [str(file) for file in files]


if __name__ == "__main__":
    main(TaskRun)
