"""How many micro-batches are held, against torch's own orders where it lists them, and the papers' numbers."""

import pytest
from hexareme.core.planning.in_flight import most_held


def test_gpipe_holds_all_and_1f1b_as_many_as_stages_follow() -> None:
    assert [most_held("gpipe", pp=4, rank=rank, micro_batches=16, kept=[1]) for rank in range(4)] == [16] * 4
    assert [most_held("1f1b", pp=4, rank=rank, micro_batches=16, kept=[1]) for rank in range(4)] == [4, 3, 2, 1]
    assert most_held("1f1b", pp=1, rank=0, micro_batches=16, kept=[7]) == 7


@pytest.mark.parametrize(("pp", "stages", "micro_batches"), [(2, 2, 4), (4, 2, 8), (4, 3, 8), (2, 3, 6), (4, 2, 10)])
def test_interleaved_is_torchs_own_order(pp: int, stages: int, micro_batches: int) -> None:
    from torch.distributed.pipelining.schedules import _get_1f1b_rank_ops, _get_warmup_ops

    rounds = micro_batches // max(1, micro_batches // pp)
    for rank in range(pp):
        warmup = _get_warmup_ops(rank, stages, rounds, pp, micro_batches, multiply_factor=2)
        steady = micro_batches * stages - warmup
        order = _get_1f1b_rank_ops(stages, pp, warmup, steady, warmup, rank,
                                   lambda step, rank=rank: step // rounds % stages * pp + rank,
                                   lambda step, rank=rank, warmup=warmup: (stages - 1 - (step - warmup) // rounds % stages) * pp + rank)
        kept, held, most = [3 ** stage for stage in range(stages)], 0, 0
        for action in filter(None, order):
            sign = 1 if action.computation_type.name == "FORWARD" else -1
            held += sign * kept[action.stage_index // pp]
            most = max(most, held)
        assert held == 0
        assert most_held("interleaved_1f1b", pp=pp, rank=rank, micro_batches=micro_batches, kept=kept) == most
