"""metrics.jsonl: exact numbers, no torn line survives, each step once, and cheap."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hexareme.core import step_log
from hexareme.core.errors import StorageError
from hexareme.core.metrics import MetricsLog, StepMetrics, ValidationMetrics, read_metrics
from hypothesis import given
from hypothesis import strategies as st

# The contract's fields, copied from DESIGN.md 2.3 and not from the code.
FIELDS = ["step", "samples_seen", "tokens_seen", "loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second",
          "model_flops_utilization", "memory_bytes"]

EXAMPLE = StepMetrics(step=1, samples_seen=8, tokens_seen=1024, loss=10.5, grad_norm=1.5, learning_rate=1e-3, step_seconds=0.5,
                      tokens_per_second=2048.0, model_flops_utilization=None, memory_bytes=123)


def step(number, **changes):
    return replace(EXAMPLE, step=number, **changes)


def validation(number):
    return ValidationMetrics(step=number, validation_loss=2.0, validation_perplexity=math.exp(2.0))


def write(path, *metrics):
    with MetricsLog(path) as log:
        for row in metrics:
            log.record(row)


def test_fields_are_the_contracts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), validation(1))
    first, second = map(json.loads, path.read_text().splitlines())
    assert list(first) == FIELDS
    assert first["model_flops_utilization"] is None
    assert list(second) == ["step", "validation_loss", "validation_perplexity"]


@given(loss=st.floats(), grad_norm=st.floats(), rate=st.floats())
def test_numbers_read_back_bit_for_bit(tmp_path_factory, loss, grad_norm, rate):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    write(path, step(1, loss=loss, grad_norm=grad_norm, learning_rate=rate))
    line = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for key, value in (("loss", loss), ("grad_norm", grad_norm), ("learning_rate", rate)):
        if math.isfinite(value):
            assert line[key].hex() == value.hex()
            assert key not in line.get("non_finite", [])
        else:
            assert line[key] is None
            assert key in line["non_finite"]


def test_cut_drops_later_steps_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2), validation(2), step(3), validation(3))
    with open(path, "ab") as file:
        file.write(b'\0\0\0\0\n{"step": 2, "torn')
    with MetricsLog(path) as log:
        log.cut_after(2)
        log.record(step(3, loss=7.0))
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 2, 3]
    assert rows[-1]["loss"] == 7.0
    assert rows[-2]["validation_loss"] == 2.0
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_cut_of_a_fresh_start_empties(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2))
    with MetricsLog(path) as log:
        log.cut_after(0)
    assert path.read_bytes() == b""


def test_cut_keeps_a_file_that_needs_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2))
    inode = path.stat().st_ino
    with MetricsLog(path) as log:
        log.cut_after(2)
    assert path.stat().st_ino == inode


def test_cut_is_atomic_where_the_disk_refuses(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1), step(2))
    before = path.read_bytes()
    log = MetricsLog(path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        log.cut_after(1)
    log.close()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@given(end=st.integers(0, 600))
def test_opening_mends_a_file_torn_anywhere(tmp_path_factory, end):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    write(path, step(1), step(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:end])
    kept = whole[:end].count(b"\n")
    assert len(read_metrics(path)) == kept
    write(path, step(9))
    assert [row["step"] for row in read_metrics(path)] == [1, 2][:kept] + [9]


def test_long_torn_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"x" * 10_000)
    MetricsLog(path).close()
    assert path.read_bytes() == b'{"step": 1}\n'


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_a_killed_writer_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = ("import sys; sys.path.insert(0, sys.argv[2]); from tests.core.test_metrics import *\n"
            "log = MetricsLog(sys.argv[1])\nfor n in range(1, 10**9): log.record(step(n))")
    writer = subprocess.Popen([sys.executable, "-c", code, str(path), str(Path(__file__).parents[2])])
    while not path.exists() or path.stat().st_size < 100_000:
        assert writer.poll() is None
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert path.read_bytes().count(b"\n") == len(rows)


@contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """Files of this process take `size` bytes: the kernel writes what fits, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_wait_for_a_full_disk_and_come_in_order(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1))
    size = path.stat().st_size
    log = MetricsLog(path)
    with disk_with_room_for(size + 20):
        for number in range(2, 30):
            log.record(step(number))
        assert path.stat().st_size == size
        with pytest.raises(StorageError) as caught:
            log.flush()
    assert caught.value.exit_code == 7
    assert str(path) in str(caught.value)
    assert caplog.text.count("held in memory") == 1
    log.record(step(30))
    assert "is written again" in caplog.text
    log.close()
    assert [row["step"] for row in read_metrics(path)] == list(range(1, 31))


def test_lines_that_a_full_disk_never_took_are_an_error_at_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, step(1))
    with disk_with_room_for(path.stat().st_size), pytest.raises(StorageError, match="cannot write"), MetricsLog(path) as log:
        log.record(step(2))


def test_lines_that_wait_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(step_log, "MOST_HELD", 1000)
    path = tmp_path / "metrics.jsonl"
    write(path, step(1))
    with disk_with_room_for(path.stat().st_size), pytest.raises(StorageError), MetricsLog(path) as log:
        for number in range(2, 100):
            log.record(step(number))
    assert number < 20


def test_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        MetricsLog(tmp_path / "none" / "metrics.jsonl")


def test_a_line_costs_less_than_50_microseconds(tmp_path):
    best = math.inf
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for _ in range(10):  # the best of ten: other processes share this machine
            begin = time.perf_counter()
            for number in range(100):
                log.record(step(number))
            best = min(best, (time.perf_counter() - begin) / 100)
    assert best < 50e-6


def test_rows_are_complete(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, EXAMPLE)
    assert read_metrics(path) == [EXAMPLE.fields()]
    assert EXAMPLE.fields().keys() == asdict(EXAMPLE).keys() - {"stage_memory_bytes", "routing", "skipped", "overflow"}  # only where so


def test_a_step_that_changed_nothing_says_so(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, replace(EXAMPLE, loss=float("nan"), grad_norm=float("nan"), skipped=True),
          replace(EXAMPLE, step=EXAMPLE.step + 1, grad_norm=float("inf"), overflow=True))
    skipped, overflow = read_metrics(path)
    assert (skipped["loss"], skipped["non_finite"], skipped["skipped"], "overflow" in skipped) == (None, ["loss", "grad_norm"], True, False)
    assert (overflow["loss"], overflow["non_finite"], overflow["overflow"]) == (EXAMPLE.loss, ["grad_norm"], True)
    assert "skipped" not in overflow


def test_a_pipeline_and_experts_add_to_the_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, replace(EXAMPLE, stage_memory_bytes=(5, 7), routing={"expert_load_max": 1.5, "dropped_fraction": 0.0}))
    (row,) = read_metrics(path)
    assert row["stage_memory_bytes"] == [5, 7] and row["expert_load_max"] == 1.5 and row["dropped_fraction"] == 0.0
