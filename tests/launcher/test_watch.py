"""`hexareme watch`: what it reads of a folder that grows, the curve that it draws, and the command on a real terminal."""

import json
import math
import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hexareme.conf.compose import compose, dump_yaml
from hexareme.core.watching import BASE, DOTS, Watched, chart
from hexareme.launcher import cli
from hypothesis import given
from hypothesis import strategies as st


def row(step, loss, seconds=0.5):
    return {"step": step, "samples_seen": step, "tokens_seen": step * 64, "loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3,
            "step_seconds": seconds, "tokens_per_second": 128.0, "model_flops_utilization": None, "memory_bytes": 1 << 20}


@pytest.fixture
def folder(tmp_path):
    config = compose("train", ["experiment=debug", "data.train=c", "train.steps=40", "schedule.warmup_steps=1"])
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    return tmp_path


def write(folder, rows, mode="a"):
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)


def test_rows_as_they_come_and_what_a_resume_does_again(folder):
    watched = Watched(folder)
    assert not watched.look() and math.isnan(watched.seconds_left(40)) and not watched.silent_seconds()
    write(folder, [*(row(step, 5.0 - step / 10) for step in range(1, 11)), {"step": 10, "validation_loss": 4.2}])
    assert watched.look() and not watched.look()
    assert watched.steps == list(range(1, 11)) and watched.columns["loss"][-1] == 4.0 and watched.validation == [(10, 4.2)]
    assert watched.seconds_left(40) == 15.0
    os.replace(folder / "metrics.jsonl", folder / "old")
    write(folder, [row(step, 3.0) for step in range(1, 7)])  # the resume's checkpoint was of step 5
    watched.look()
    assert watched.steps == list(range(1, 7)) and watched.columns["loss"] == [3.0] * 6 and not watched.validation
    write(folder, [row(7, None)])
    watched.look()
    assert math.isnan(watched.columns["loss"][-1]) and watched.newest["step"] == 7


def test_silence_and_the_end(folder):
    watched = Watched(folder)
    write(folder, [row(1, 3.0)])
    watched.look()
    now = time.time()
    assert not watched.silent_seconds(now + 9) and 29 < watched.silent_seconds(now + 30) < 32
    (folder / "exit.json").write_text('{"code": 5, "reason": "peer"}')
    assert watched.ended()["code"] == 5
    os.utime(folder / "exit.json", (now - 60,) * 2)
    assert not watched.ended(), "that was the end of an earlier start"


def dots(lines):
    """Places of the dots of a chart, from its lower left corner."""
    found = set()
    for above, line in enumerate(lines[:-1]):
        for place, character in enumerate(each for each in line if ord(each) >= BASE):
            found |= {(place * 2 + x, (len(lines) - 2 - above) * 4 + 3 - y)
                      for y in range(4) for x in range(2) if (ord(character) - BASE) & DOTS[y][x]}
    return found


def test_a_straight_line():
    lines = chart(range(1, 9), range(10, 18), width=6, height=3)  # 3 characters for the labels, and 3 for 6 columns of dots
    assert lines[0].startswith("17 ") and lines[1].startswith("10 ") and lines[2].split() == ["1", "8"]
    assert min(dots(lines)) == (0, 0) and max(dots(lines)) == (5, 7)
    assert sorted(y for _, y in sorted(dots(lines))) == [y for _, y in sorted(dots(lines))]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.integers(30, 90), st.integers(3, 20))
def test_any_numbers(ys, width, height):
    lines = chart(range(len(ys)), ys, width=width, height=height)
    assert len(lines) in (1, height) and all(len(line) <= max(width, len("nothing yet")) for line in lines)


def test_once_where_the_output_is_no_terminal(folder, capsys):
    write(folder, [row(step, 5.0) for step in range(1, 11)])
    assert cli.main(["watch", f"directory={folder}"]) == 0
    out = capsys.readouterr().out
    assert "10 of 40 steps" in out and "0:00:15 left" in " ".join(out.split()) and "loss 5" in out
    assert cli.main(["watch", f"directory={folder / 'nothing'}"]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_live_on_a_terminal(folder):
    write(folder, [row(1, 5.0)])
    ours, theirs = pty.openpty()
    process = subprocess.Popen([str(Path(sys.executable).with_name("hexareme")), "watch", f"directory={folder}", "seconds=0.2"],
                               stdout=theirs, stderr=theirs, env=os.environ | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm"})
    os.close(theirs)
    shown = b""

    def until(words):
        nonlocal shown
        deadline = time.monotonic() + 60
        while words not in shown:
            assert time.monotonic() < deadline, shown[-2000:]
            shown += os.read(ours, 1 << 16)

    until(b"1 of 40 steps")
    write(folder, [row(2, 4.5)])
    until(b"2 of 40 steps")
    (folder / "exit.json").write_text('{"code": 0, "reason": "completed"}')
    until(b"ended: completed, exit code 0")
    with suppress(OSError):  # a terminal that nobody reads holds up whoever writes there; EIO: the command has ended
        while os.read(ours, 1 << 16):
            continue
    assert process.wait(timeout=60) == 0
    os.close(ours)
