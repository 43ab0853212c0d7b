"""The harness itself: results, the guilty rank's traceback, time limits, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hexareme.core.forked_ranks import ForkedRanks, wait_for_any

from .ranks import RankError, run_ranks, run_single


def test_results_come_in_rank_order() -> None:
    def rank(number: int, offset: int) -> tuple[int, torch.Tensor]:
        total = torch.tensor(number)
        dist.all_reduce(total)
        return number + offset, total

    results = run_ranks(rank, 3, 10)
    assert [value for value, _ in results] == [10, 11, 12]
    assert all(total == 3 for _, total in results)
    assert run_single(lambda rank: rank) == 0
    assert not dist.is_initialized()


def test_the_guilty_rank_is_named() -> None:
    def rank(number: int) -> None:
        if number == 1:
            raise KeyError("the culprit")
        dist.barrier()

    with pytest.raises(RankError, match=r"(?s)^rank 1 failed:.*the culprit"):
        run_ranks(rank, 3)


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RankError, match="rank 1 died with exit code 3"):
        run_ranks(lambda rank: os._exit(3) if rank == 1 else dist.barrier(), 2)


def test_frozen_ranks_end_with_the_time_limit(tmp_path) -> None:
    def rank(number: int) -> None:
        (tmp_path / str(number)).write_text(str(os.getpid()))
        time.sleep(100)

    with pytest.raises(RankError, match=r"ranks \[0, 1\] did not finish within 1 s"):
        run_ranks(rank, 2, timeout=1.0)
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_silent_ranks_speak_when_one_fails(capfd) -> None:
    def rank(number: int) -> None:
        print("what the rank was doing", flush=True)
        if number == 1:
            raise KeyError("the culprit")

    def silent(number: int) -> None:
        subprocess.run(["echo", "from a child program"], check=True)

    with pytest.raises(RankError, match=r"(?s)the culprit.*what the ranks printed:\nwhat the rank was doing") as caught:
        run_ranks(rank, 2, quiet=True)
    assert caught.value.cause == "KeyError: 'the culprit'"
    assert run_ranks(silent, 1, quiet=True) == [None]
    assert capfd.readouterr().out == ""


def test_several_cases_at_once() -> None:
    def rank(number: int, value: int) -> int:
        total = torch.tensor(value)
        dist.all_reduce(total)
        return int(total)

    with ForkedRanks(rank, 2, 3) as one, ForkedRanks(rank, 2, 4, timeout=None) as other:
        while not (one.finished and other.finished):
            wait_for_any([one, other])
        assert (one.results(), other.results()) == ([6, 6], [8, 8])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_parent_ends_every_rank(number: signal.Signals, tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from pathlib import Path
from hexareme.core.forked_ranks import run_ranks

def rank(number):
    (Path({str(tmp_path)!r}) / str(number)).write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
run_ranks(rank, 2, timeout=None)
"""
    shared = set(os.listdir("/dev/shm"))
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    wait_until(lambda: len([f for f in tmp_path.iterdir() if f.read_text()]) == 2, 60)
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=20)
    ranks = [int(file.read_text()) for file in tmp_path.iterdir()]
    wait_until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 10)
    assert number == signal.SIGINT or not errors, errors
    assert set(os.listdir("/dev/shm")) <= shared


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
