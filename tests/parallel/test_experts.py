"""Expert layers and the way of tokens to them, against plain loops on whole weights."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hexareme.parallel.dispatch import combine, dispatch, plan_dispatch
from hexareme.parallel.experts import (
    ExpertColumnLinear,
    ExpertRowLinear,
    fits_grouped_kernel,
    grouped_kernel,
    grouped_product,
    shard_experts,
)
from hexareme.parallel.partition import Piece, ShardSpec
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight
from torch.utils._python_dispatch import TorchDispatchMode

from ..ranks import run_ranks, world

E, H = 8, 6


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_shards_hold_each_row_once(ep: int, tp: int, experts: int, parts: list[int]) -> None:
    parts = [part * tp for part in parts]
    rows = experts * ep * sum(parts)
    specs = [shard_experts((rows, 2), parts=parts, expert=(ep, i), tensor=(tp, j)) for i in range(ep) for j in range(tp)]
    held = sorted(row for spec in specs for piece in spec.pieces for row in range(piece.start, piece.start + piece.length))
    assert held == list(range(rows))
    assert {spec.local_size for spec in specs} == {rows // (ep * tp)}
    assert all(len(spec.pieces) == 1 for spec in specs) or tp > 1


def test_a_shard_is_part_of_every_part_of_its_own_experts() -> None:
    spec = shard_experts((4 * 6, 5), parts=(4, 2), expert=(2, 1), tensor=(2, 0))  # experts 2 and 3, the first half of each part
    assert spec == ShardSpec((24, 5), 0, (Piece(0, 12, 2), Piece(2, 16, 1), Piece(3, 18, 2), Piece(5, 22, 1)), 6)


@pytest.mark.parametrize(("change", "message"), [
    ({"expert": (3, 0)}, r"parallel.ep=3 must divide model.num_experts=4; try ep in \[1, 2, 4\]"),
    ({"tensor": (3, 0)}, "parallel.tp=3 must divide the width 4 of an expert"), ({"parts": (5,)}, "no whole number of experts")])
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shard_experts((24, 5), **({"parts": (4, 2), "expert": (1, 0), "tensor": (1, 0)} | change))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_tokens_reach_their_experts_in_a_fixed_order_and_come_back(ranks: int) -> None:
    def rank(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for T, k, drops in ((5, 2, False), (3, 3, True), (0, 2, False), (4, 1, True)):
            tokens = T if number != 1 else 2 * T  # ranks need not hold equally many
            experts_Tk = torch.rand(tokens, 3, generator=generator).argsort(dim=1)[:, :k]
            kept_Tk = torch.rand(tokens, k, generator=generator) > 0.4 if drops else None
            plan = plan_dispatch(experts_Tk, num_experts=E, group=world(), kept_Tk=kept_Tk)  # experts 3 to 7 get nothing
            x_TH = (torch.arange(tokens)[:, None] + 100.0 * number).expand(-1, H).clone().requires_grad_()
            rows_QH = dispatch(x_TH, plan, world())
            names = rows_QH.detach()[:, 0].split(plan.rows)
            assert all(torch.equal(rows, rows.sort().values) for rows in names)  # by source rank, then by token
            first = number * E // ranks
            scaled = torch.cat([rows * (first + i + 1) for i, rows in enumerate(rows_QH.split(plan.rows))])
            y_TkH = combine(scaled, plan, world())
            weights = (experts_Tk + 1.0) * (1.0 if kept_Tk is None else kept_Tk)
            assert torch.equal(y_TkH, weights[..., None] * x_TH.detach()[:, None])
            y_TkH.sum().backward()
            assert torch.equal(x_TH.grad, weights.sum(dim=1, keepdim=True).expand(-1, H))

    run_ranks(rank, ranks)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def slice_of(whole: Tensor, spec: ShardSpec) -> Tensor:
    return torch.cat([whole.narrow(spec.dim, piece.start, piece.length) for piece in spec.pieces], dim=spec.dim)


@pytest.mark.parametrize("tp", [1, 2])
def test_column_then_row_equals_a_loop_over_whole_experts(tp: int) -> None:
    def rank(number: int) -> None:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        alone = torch.distributed.new_group([number], use_local_synchronization=True)
        column = ExpertColumnLinear(3, H, parts=(4, 4), bias=True, expert=alone, tensor=world())
        row = ExpertRowLinear(3, 4, H, bias=True, expert=alone, tensor=world())
        whole = {"up": leaf(24, H), "up_bias": leaf(24), "down": leaf(12, H), "down_bias": leaf(3, H)}
        with torch.no_grad():
            for parameter, name, spec in ((column.weight, "up", column.shards["weight"]), (column.bias, "up_bias", column.shards["bias"]),
                                          (row.weight, "down", row.shards["weight"]), (row.bias, "down_bias", row.shards["bias"])):
                parameter.copy_(slice_of(whole[name], spec))
        x, rows, summands = leaf(7, H), [4, 0, 3], []
        for i, part in enumerate(x.split(rows)):
            gate, value = F.linear(part, whole["up"][8 * i:8 * i + 8], whole["up_bias"][8 * i:8 * i + 8]).chunk(2, dim=-1)
            summands.append((gate.tanh() * value) @ whole["down"][4 * i:4 * i + 4] + whole["down_bias"][i])
        wanted = torch.cat(summands)
        wanted.square().sum().backward()
        gate, value = column(x.detach(), rows).chunk(2, dim=-1)
        y = row(gate.tanh() * value, rows)
        total = y.detach().clone()
        torch.distributed.all_reduce(total)
        torch.testing.assert_close(total, wanted.detach())
        (y * 2 * wanted.detach()).sum().backward()
        for parameter, name, spec in ((column.weight, "up", column.shards["weight"]), (column.bias, "up_bias", column.shards["bias"]),
                                      (row.weight, "down", row.shards["weight"]), (row.bias, "down_bias", row.shards["bias"])):
            torch.testing.assert_close(parameter.grad, slice_of(whole[name].grad, spec))
        assert row.copies == ({"bias"} if number else set())

    run_ranks(rank, tp)


def test_an_expert_without_rows_gets_a_zero_gradient() -> None:
    weight = leaf(3, H, 4)
    grouped_product(torch.randn(5, H), weight, None, [5, 0, 0]).sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].any() and not weight.grad[1:].any()
    nothing = leaf(3, H, 4)
    assert grouped_product(torch.randn(0, H), nothing, None, [0, 0, 0]).shape == (0, 4)


def test_the_grouped_kernel_equals_the_loop() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.bfloat16).requires_grad_() for shape in ((9, 16), (3, 16, 8)))
    assert fits_grouped_kernel(x, weight) and not fits_grouped_kernel(x, weight[..., :3]) and not fits_grouped_kernel(x.float(), weight)
    rows, results = [4, 0, 5], []
    for kernel, transposed in itertools.product((False, True), (False, True)):
        used = weight.transpose(1, 2).contiguous().transpose(1, 2) if transposed else weight
        y = grouped_kernel(x, used, rows) if kernel else grouped_product(x, used, None, rows)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, weight))))
    for result in results[1:]:
        for value, wanted in zip(result, results[0], strict=True):
            torch.testing.assert_close(value, wanted, rtol=2e-2, atol=2e-1)


class Exchanges(TorchDispatchMode):
    """Counts all-to-alls."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops._c10d_functional.all_to_all_single.default
        return func(*args, **(kwargs or {}))


def test_a_split_backward_pass_gives_the_whole_ones_gradients_and_sends_nothing_twice() -> None:
    """What zero-bubble schedules do: the input's gradient first, the weights' later, from the products' own nodes."""
    def rank(number: int) -> None:
        torch.manual_seed(number)
        alone = torch.distributed.new_group([number], use_local_synchronization=True)
        column = ExpertColumnLinear(E, H, parts=(H,), bias=True, expert=world(), tensor=alone)
        torch.nn.init.normal_(column.weight)
        experts_Tk = torch.randint(0, 6, (5, 2))  # experts 6 and 7 get nothing

        def forward(x: Tensor) -> Tensor:
            plan = plan_dispatch(experts_Tk, num_experts=E, group=world())
            return combine(column(dispatch(x, plan, world()), plan.rows).tanh(), plan, world()).sum()

        x, parameters = leaf(5, H), list(column.parameters())
        with Exchanges() as exchanges:
            wanted = torch.autograd.grad(forward(x), (x, *parameters))
            once, output = exchanges.count, forward(x)
            [dx], groups = stage_backward_input([output], None, [x], iter(parameters))
            stage_backward_weight(iter(parameters), groups)
        assert exchanges.count == 2 * once == 10
        for value, expected in zip((dx, *(parameter.grad for parameter in parameters)), wanted, strict=True):
            assert value is not None and torch.equal(value, expected)

    run_ranks(rank, 2)
