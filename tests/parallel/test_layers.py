"""Parallel linear layers, embedding and collectives, against torch's own layers on whole weights."""

import pytest
import torch
import torch.nn.functional as F
from hexareme.parallel.collectives import (
    all_gather,
    all_reduce,
    copy_to_tensor_axis,
    gather_from_tensor_axis,
    gather_sequence,
    gather_sequence_alike,
    reduce_from_tensor_axis,
    reduce_scatter,
    reduce_scatter_sequence,
    split_sequence,
)
from hexareme.parallel.embedding import VocabParallelEmbedding, VocabParallelHead
from hexareme.parallel.linear import ColumnParallelLinear, RowParallelLinear
from hexareme.parallel.partition import ShardSpec
from hexareme.parallel.partition_module import placed_parameters
from torch import Tensor, nn

from ..ranks import RankError, run_ranks, world


def slice_of(whole: Tensor, spec: ShardSpec) -> Tensor:
    local = torch.zeros(spec.local_shape)
    for piece in spec.pieces:
        local.narrow(spec.dim, piece.local, piece.length).copy_(whole.narrow(spec.dim, piece.start, piece.length))
    return local


def load(module: nn.Module, whole: dict[str, Tensor]) -> None:
    specs = {each.name: each.shard for each in placed_parameters(module)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(slice_of(whole[name], specs[name]))


def check_gradients(module: nn.Module, whole: dict[str, Tensor]) -> None:
    specs = {each.name: each.shard for each in placed_parameters(module)}
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradient(parameter), slice_of(gradient(whole[name]), specs[name]), rtol=1e-10, atol=1e-10)


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_column_then_row_equals_two_linears(tp: int, bias: bool) -> None:
    def rank(_: int) -> None:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        group = world()
        parts = (8, 4, 4)
        column = ColumnParallelLinear(6, 16, bias=bias, group=group, parts=parts)
        row = RowParallelLinear(8, 6, bias=bias, group=group)
        weights = {"weight": leaf(16, 6), "bias": leaf(16)}, {"weight": leaf(6, 8), "bias": leaf(6)}
        load(column, weights[0])
        load(row, weights[1])
        x = leaf(2, 3, 6)
        first = F.linear(x, weights[0]["weight"], weights[0]["bias"] if bias else None)
        a, b, c = first.split(parts, dim=-1)
        wanted = F.linear(a * torch.cat((b, c), -1), weights[1]["weight"], weights[1]["bias"] if bias else None)
        wanted.square().sum().backward()
        x_here = x.detach().clone().requires_grad_()
        a, b, c = column(x_here).split(column.local_parts, dim=-1)
        whole = torch.cat((gather_from_tensor_axis(b, group), gather_from_tensor_axis(c, group)), -1)
        own = copy_to_tensor_axis(whole, group).chunk(tp, -1)[group.rank()]
        y = row(a * own)
        torch.testing.assert_close(y, wanted)
        y.square().sum().backward()
        torch.testing.assert_close(x_here.grad, x.grad, rtol=1e-10, atol=1e-10)
        check_gradients(column, weights[0])
        check_gradients(row, weights[1])

    run_ranks(rank, tp)


@pytest.mark.parametrize(("tp", "vocab_size"), [(1, 7), (2, 7), (4, 7), (4, 5), (3, 6)])
def test_embedding_and_head_over_an_odd_vocabulary(tp: int, vocab_size: int) -> None:
    def rank(_: int) -> None:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        group = world()
        weight = {"weight": leaf(vocab_size, 4)}
        tokens = torch.arange(vocab_size).repeat(2)[None]
        embedding = VocabParallelEmbedding(vocab_size, 4, group=group)
        head = VocabParallelHead(vocab_size, 4, group=group, tied_to=embedding)
        assert [name for name, _ in nn.ModuleDict({"embedding": embedding, "head": head}).named_parameters()] == ["embedding.weight"]
        load(embedding, weight)
        wanted = F.linear(F.embedding(tokens, weight["weight"]).tanh(), weight["weight"])
        wanted.square().sum().backward()
        logits = gather_from_tensor_axis(head(embedding(tokens).tanh()), group)[..., :vocab_size]
        torch.testing.assert_close(logits, wanted)
        logits.square().sum().backward()
        check_gradients(embedding, weight)

    run_ranks(rank, tp)


def test_collectives_forward_and_backward() -> None:
    def rank(number: int) -> None:
        group = world()
        x = torch.full((2,), number + 1.0, requires_grad=True)
        weight = number + 1.0  # every rank uses the result in its own way
        for function, value, slope in ((copy_to_tensor_axis, number + 1.0, 6.0), (reduce_from_tensor_axis, 6.0, weight)):
            x.grad = None
            y = function(x, group)
            assert y.tolist() == [value] * 2
            (y * weight).sum().backward()
            assert gradient(x).tolist() == [slope] * 2
            assert x.tolist() == [number + 1.0] * 2  # out of place
        x.grad = None
        y = gather_from_tensor_axis(x[None], group)
        assert y.tolist() == [[1, 1, 2, 2, 3, 3]]
        (y * torch.arange(6)).sum().backward()
        assert gradient(x).tolist() == [2 * number, 2 * number + 1]
        assert all_reduce(torch.tensor(float(number)), group, "max") == 2

    run_ranks(rank, 3)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_sequence_collectives_equal_one_process(tp: int) -> None:
    """Every rank's own function of the gathered, split or summed tensor, and all gradients, against torch on whole tensors."""
    def rank(number: int) -> None:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        group, B, S, H = world(), 2, 8, 3
        x, y = leaf(B, S, H), leaf(tp, B, S, H)  # a whole tensor, and one summand of each rank
        weights = torch.randn(tp, B, S, H)  # what each rank does with what it gets
        rows = slice(number * S // tp, (number + 1) * S // tp)
        shard, summand, whole = (t.detach().clone().requires_grad_() for t in (x[:, rows], y[number], x))
        wanted = (x.sin() * weights).sum() + (x.cos() * weights[0]).sum() + (y.sum(0).sin() * weights[0]).sum() + (x**3 * weights[0]).sum()
        wanted.backward()
        own = (gather_sequence(shard, group).sin() * weights[number]).sum()  # each rank another function
        alike = (gather_sequence_alike(shard, group).cos() * weights[0]).sum()  # all the same one
        scattered = (reduce_scatter_sequence(summand, group).sin() * weights[0][:, rows]).sum()
        split = (split_sequence(whole, group) ** 3 * weights[0][:, rows]).sum()
        found = all_reduce((own + scattered + split).detach(), group) + alike.detach()
        torch.testing.assert_close(found, wanted.detach())
        (own + alike + scattered + split).backward()
        torch.testing.assert_close(gradient(summand), gradient(y)[number])
        cubic = 3 * x.detach() ** 2 * weights[0]
        torch.testing.assert_close(gradient(whole), cubic)
        torch.testing.assert_close(gradient(shard), (gradient(x) - cubic)[:, rows])
        for dim in range(3):  # the plain ones along any dim
            z = torch.arange(4 * tp**3, dtype=torch.float64).view(tp, 2 * tp, 2 * tp) + number
            torch.testing.assert_close(reduce_scatter(z, group, dim), (tp * (z - number) + tp * (tp - 1) / 2).chunk(tp, dim)[number])
            torch.testing.assert_close(all_gather(z, group, dim), torch.cat([z - number + i for i in range(tp)], dim))

    run_ranks(rank, tp)


def test_a_sequence_that_cannot_be_cut_is_refused() -> None:
    for function in (reduce_scatter_sequence, split_sequence):
        with pytest.raises(RankError, match=r"7 tokens cannot be cut over parallel.tp=2; set parallel.sequence_parallel=false.* 6 or 8"):
            run_ranks(lambda _, cut=function: cut(torch.zeros(1, 7, 2), world()) and None, 2)


def test_shards_of_a_module_name_every_parameter() -> None:
    def rank(number: int) -> None:
        group = world()
        module = nn.ModuleDict({"norm": nn.LayerNorm(4), "up": ColumnParallelLinear(4, 8, bias=True, group=group),
                                "down": RowParallelLinear(8, 4, bias=True, group=group)})
        specs = {each.name: each.shard for each in placed_parameters(module)}
        assert list(specs) == [name for name, _ in module.named_parameters()]
        assert {name for name, spec in specs.items() if spec.replicated} == {"norm.weight", "norm.bias", "down.bias"}
        assert all(specs[name].local_shape == parameter.shape for name, parameter in module.named_parameters())
        assert specs["down.weight"].pieces[0].start == 4 * number

    run_ranks(rank, 2)
