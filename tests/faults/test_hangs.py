"""Row C8: a rank that makes no progress is found, named with what it does and where, and ended; the others' stacks lie in their logs."""

import ctypes
import signal
import time

import pytest

from .rig import SLACK, send

TIMEOUT = 3.0
OVERRIDES = (f"run.hang_timeout={TIMEOUT}", "checkpoint.interval=0", "train.steps=2000")
DETECTED, GONE = TIMEOUT + 5, 10.0


def test_a_stopped_rank(new_run):
    run = new_run("run", *OVERRIDES)
    start = run.start()
    start.await_step(3)
    send(start.rank(1), signal.SIGSTOP)
    begin = time.monotonic()
    assert start.finish(SLACK * (DETECTED + GONE)) == 5
    print(time.monotonic() - begin, start.text())
    print((run.directory / "logs/rank-00000.log").read_text()[-3000:])
