"""The recorder of what a rank sends: every kind of call, by whom it is made, and how it is added up."""

import pytest
import torch
import torch.distributed as dist
from hexareme.parallel import traffic
from hexareme.parallel.collectives import copy_to_tensor_axis
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.recompute import recompute
from hexareme.parallel.topology import Topology
from hexareme.parallel.traffic import METADATA, Traffic, TrafficRecorder, axis_labels, by_axis, bytes_sent

from ..ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
N, BYTES = 100, 400  # fp32 elements, and their bytes


def python_calls(rank):
    """One call of each kind as torch.distributed's users make them (DeepSpeed among these), on three ranks."""
    x, whole = torch.ones(N), torch.ones(3 * N)
    with TrafficRecorder() as recorder:
        dist.all_reduce(x)
        dist.all_gather_into_tensor(whole, x)
        dist.reduce_scatter_tensor(x, whole)
        dist.reduce(x, 1)
        dist.broadcast(x, 1)
        dist.all_gather([torch.empty(N) for _ in range(3)], x)
        uneven = [[10, 20, 30], [20, 10, 30], [30, 20, 10]]
        dist.all_to_all_single(torch.empty(sum(row[rank] for row in uneven)), torch.ones(60), [row[rank] for row in uneven], uneven[rank])
        operations = [dist.P2POp(dist.isend, x, (rank + 1) % 3), dist.P2POp(dist.irecv, torch.empty(N), (rank - 1) % 3)]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        dist.barrier()
    return [(call.kind, call.payload, call.sent, call.ranks) for call in recorder.calls]


def test_each_kind_of_call_is_counted_as_its_algorithm_sends():
    everyone = (0, 1, 2)
    for rank, calls in enumerate(run_ranks(python_calls, 3)):
        assert calls == [
            ("all_reduce", BYTES, 2 * BYTES * 2 / 3, everyone),
            ("all_gather", 3 * BYTES, 3 * BYTES * 2 / 3, everyone),
            ("reduce_scatter", 3 * BYTES, 3 * BYTES * 2 / 3, everyone),
            ("reduce", BYTES, 0.0 if rank == 1 else BYTES, everyone),  # a chain that ends at rank 1
            ("broadcast", BYTES, 0.0 if rank == 0 else BYTES, everyone),  # a chain that begins there
            ("all_gather", 3 * BYTES, 3 * BYTES * 2 / 3, everyone),
            ("all_to_all", 240, 4.0 * (60 - [10, 10, 10][rank]), everyone),
            ("send", BYTES, float(BYTES), everyone),
        ]


@pytest.mark.parametrize("kind", ["reduce", "broadcast"])
def test_a_chain_sends_its_tensor_from_every_rank_but_one(kind):
    for n in range(2, 6):
        for root in range(n):
            assert sum(bytes_sent(kind, 8, n=n, rank=rank, root=root) for rank in range(n)) == 8 * (n - 1)


class Multiply(torch.nn.Module):
    def forward(self, x):
        return copy_to_tensor_axis(x, dist.group.WORLD).sin() * 2


def layers(rank, policy):
    """Our own collectives, made in the backward pass, under recomputation."""
    x = torch.ones(N, requires_grad=True)
    with TrafficRecorder() as recorder:
        recompute(Multiply(), policy, x).sum().backward()
    return [call.kind for call in recorder.calls]


@pytest.mark.parametrize("policy", ["none", "selective", "full"])
def test_a_collective_of_the_backward_pass_is_seen_once(policy):
    assert run_ranks(layers, 2, policy) == [["all_reduce"], ["all_reduce"]]


def along_axes(rank):
    context = ParallelContext.create(Topology(tp=2, pp=1, cp=1, ep=1, dp=2), rank)
    with TrafficRecorder() as recorder:
        dist.all_reduce(torch.ones(N), group=context.tensor)
        dist.all_reduce(torch.ones(N), group=context.tensor)
        dist.all_reduce(torch.ones(N), group=context.data)
        dist.all_reduce(torch.ones(1), group=context.data)
        dist.all_reduce(torch.ones(N), group=context.context)  # of one rank: sends nothing
        dist.all_reduce(torch.ones(N), group=dist.new_group([0, 3]))
    return by_axis(recorder.calls, axis_labels(context))


def test_calls_are_added_up_by_axis():
    found = run_ranks(along_axes, 4)
    assert found[0] == {
        ("tensor=model", "all_reduce"): Traffic(2, 2 * BYTES, 2.0 * BYTES),
        ("expert_data=data", "all_reduce"): Traffic(1, BYTES, 1.0 * BYTES),
        (METADATA, "all"): Traffic(1, 4, 4.0),
        ("ranks [0, 3]", "all_reduce"): Traffic(1, BYTES, 1.0 * BYTES),
    }


def test_a_collective_that_it_does_not_know_is_an_error():
    with pytest.raises(NotImplementedError, match="a_new_collective is not counted yet"):
        traffic._call("a_new_collective", {})
