"""What the tests of tracking share: steps written as a run writes them, and W&B's offline file read back."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import psutil
from hexareme.core.metrics import MetricsLog, StepMetrics, ValidationMetrics

ROOT = Path(__file__).parents[3]
EXAMPLE = StepMetrics(step=1, samples_seen=8, tokens_seen=1024, loss=10.5, grad_norm=1.25, learning_rate=3e-4, step_seconds=0.5,
                      tokens_per_second=2048.0, model_flops_utilization=None, memory_bytes=123)


def loss_of(step):
    return 10 / 3 / step


def record(run, steps, *, cut=None):
    """Steps into metrics.jsonl, a validation after each tenth."""
    with MetricsLog(run / "metrics.jsonl") as log:
        if cut is not None:
            log.cut_after(cut)
        for step in steps:
            log.record(replace(EXAMPLE, step=step, loss=loss_of(step)))
            if step % 10 == 0:
                log.record(ValidationMetrics(step=step, validation_loss=loss_of(step) + 1, validation_perplexity=math.exp(2)))


def offline_rows(run):
    """History of all offline sessions, decoded with wandb's own messages and a LevelDB reader of this test."""
    from wandb.proto.wandb_internal_pb2 import Record
    rows = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        content, position, parts = path.read_bytes(), 7, b""
        assert content[:4] == b":W&B"
        while position < len(content):
            room = 32768 - position % 32768
            if room < 7:
                position += room
                continue
            length, kind = struct.unpack_from("<HB", content, position + 4)
            parts += content[position + 7:position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                record_ = Record.FromString(parts)
                parts = b""
                if record_.WhichOneof("record_type") == "history":
                    rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record_.history.item})
    return rows


def followers():
    """Processes of tracking that live now."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "hexareme.core.tracking.follower" in line or "wandb-core" in line or "wandb-symon" in line:
            found.append((process.info["pid"], line))
    return found


def ours(run):
    """Those of this test: followers of this run, and all that descends from this process."""
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    return [(pid, line) for pid, line in followers() if str(run) in line or pid in mine]
