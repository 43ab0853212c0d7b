"""The console: plain lines where the output is no terminal, one line in place where it is, nothing on other ranks."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hexareme.core.console import Console, Eta, clock, fit, short
from hexareme.core.metrics import StepMetrics, ValidationMetrics

EXAMPLE = StepMetrics(step=1, samples_seen=8, tokens_seen=1024, loss=10.5, grad_norm=1.25, learning_rate=3e-4, step_seconds=0.5,
                      tokens_per_second=20480.0, model_flops_utilization=None, memory_bytes=123)
VALIDATION = ValidationMetrics(step=5, validation_loss=2.0, validation_perplexity=7.389)


def lines(*, steps, interval, rank=0, first=1):
    stream = io.StringIO()
    with Console(steps=steps, interval=interval, rank=rank, stream=stream) as console:
        for number in range(first, steps + 1):
            console.step(replace(EXAMPLE, step=number))
            if number == VALIDATION.step:
                console.validation(VALIDATION)
    return stream.getvalue().splitlines()


def test_a_line_each_interval_and_the_first_and_the_last():
    shown = [re.match(r"step +(\d+)/25 ", line).group(1) for line in lines(steps=25, interval=10) if line.startswith("step")]
    assert shown == ["1", "10", "20", "25"]


def test_the_first_step_after_a_resume_is_shown():
    assert lines(steps=25, interval=10, first=13)[0].startswith("step 13/25")


def test_what_a_line_says():
    line = lines(steps=3, interval=1)[0]
    for part in ("step 1/3", "loss 10.5000", "lr 3.00e-04", "grad norm 1.250", "20.5k tokens/s", "eta"):
        assert part in line


def test_validation_is_a_line_of_its_own():
    assert "validation at step 5: loss 2.0000  perplexity 7.39" in lines(steps=6, interval=100)


def test_the_memory_along_a_pipeline_is_said_where_there_is_one():
    said = io.StringIO()
    console = Console(steps=3, interval=1, stream=said)
    console.stage_memory([5_000_000])
    assert said.getvalue() == ""
    console.stage_memory([1_500_000_000, 900_000_000])
    assert said.getvalue() == "largest memory along the pipeline: 0: 1.5GB  1: 900MB\n"


def test_other_ranks_print_nothing():
    assert lines(steps=6, interval=1, rank=1) == []


TERMINAL = """
import sys, time
from tests.core.test_console import *
with Console(steps=40, interval=10) as console:
    for number in range(1, 41):
        console.step(replace(EXAMPLE, step=number))
        time.sleep(0.02)
    console.validation(VALIDATION)
"""


def on_terminal(width):
    """What the script above prints on a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, "-c", TERMINAL], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the child has closed its side
        while block := os.read(master, 65536):
            shown += block
    os.close(master)
    assert child.wait() == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_gets_one_line_in_place(width):
    text = on_terminal(width)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "step 40/40" in plain and "loss 10.5000" in plain
    assert ("eta 0:00" in plain) == (width > 40)
    assert ("━" in plain) == (width == 200)
    assert "validation at step 5: loss 2.0000  perplexity 7.39" in plain.replace("\r\n", "\n")
    assert "\x1b[2K" in text  # the line is redrawn, not repeated
    assert plain.count("\n") <= 4
    assert max(len(line) for line in re.split(r"[\r\n]", plain) if "validation" not in line) <= width
    assert "\x1b[?25h" in text  # the cursor is back


def test_a_narrow_line_leaves_out_what_is_needed_least():
    parts = ["step 1/2", "lr 1", "MFU 4%", "eta 3"]
    assert fit(parts, 100, first_out=("MFU", "lr")) == "step 1/2  lr 1  MFU 4%  eta 3"
    assert fit(parts, 22, first_out=("MFU", "lr")) == "step 1/2  lr 1  eta 3"
    assert fit(parts, 5, first_out=("MFU", "lr")) == "step 1/2  eta 3"


def test_a_step_on_a_plain_stream_is_cheap():
    console = Console(steps=10**6, interval=10**6, stream=io.StringIO())
    begin = time.perf_counter()
    for number in range(1, 1001):
        console.step(replace(EXAMPLE, step=number))
    assert (time.perf_counter() - begin) / 1000 < 100e-6


def test_eta_counts_everything_between_steps_but_the_start():
    eta = Eta(100)
    eta.step(10, 1000.0)
    assert str(eta) == "-:--"
    for number in range(11, 51):
        eta.step(number, 1000.0 + 2.0 * (number - 10))
    assert str(eta) == "1:40"  # 50 steps of 2 s


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (999, "999"), (1000, "1k"), (20480, "20.5k"), (999_900, "1M"),
                                             (1_234_567, "1.23M"), (2.5e9, "2.5G")])
def test_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "1d 01:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text
