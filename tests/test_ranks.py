"""The harness itself: results, the guilty rank's traceback, time limits, nothing left behind."""

import os
import time

import pytest
import torch
import torch.distributed as dist

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
