"""Tokens on their way to experts that lie on other ranks, and back: permutations and one all-to-all each way.

The order of rows is fixed by (expert, source rank, token, choice), never by a race. Shapes: T tokens here, k choices of each, E experts of
the whole model, H hidden, R rows that leave (a row is one choice of one token; T * k without drops), Q rows that arrive.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Dispatch:
    """Where the rows of one forward pass go.

    Args:
        choices: T and k.
        order_R: int64 places in the flattened [T, k] choices, of the rows that leave: by expert, then by place.
        regroup_Q: int64 numbers of the arrived rows: by expert, then by source rank, then as they were sent.
        sent: rows for each rank of the expert axis.
        arrived: rows from each.
        rows: rows of each expert that lies here; they add up to Q.
    """

    choices: tuple[int, int]
    order_R: Tensor
    regroup_Q: Tensor
    sent: list[int]
    arrived: list[int]
    rows: list[int]


class _Take(torch.autograd.Function):
    """Rows of x by number, where number // k is the row and no number comes twice: backward needs no atomic addition."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, order_R: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(order_R)
        ctx.tokens, ctx.k = x_TH.shape[0], k
        return x_TH.index_select(0, order_R // k if k > 1 else order_R)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [order_R] = ctx.saved_tensors
        [gradient_RH] = gradients
        whole = gradient_RH.new_zeros(ctx.tokens * ctx.k, gradient_RH.shape[1]).index_copy_(0, order_R, gradient_RH)
        return (whole.unflatten(0, (ctx.tokens, ctx.k)).sum(dim=1) if ctx.k > 1 else whole), None, None


class _Exchange(torch.autograd.Function):
    """All-to-all of rows; backward is the same the other way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], arrived: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.arrived, ctx.group = sent, arrived, group
        return all_to_all(rows, sent, arrived, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all(gradients[0], ctx.arrived, ctx.sent, ctx.group), None, None, None


def all_to_all(rows: Tensor, sent: list[int], arrived: list[int], group: dist.ProcessGroup) -> Tensor:
    """Rank i of `group` gets the i-th block of rows; not differentiable.

    Args:
        rows: the blocks for all ranks, one after the other along dim 0.
        sent: rows for each rank.
        arrived: rows from each rank.
        group: who takes part; for a group of one the tensor itself comes back.
    """
    if group.size() == 1:
        return rows
    functional = torch.ops._c10d_functional
    return functional.wait_tensor(functional.all_to_all_single(rows.contiguous(), arrived, sent, group.group_name))


def plan_dispatch(experts_Tk: Tensor, *, num_experts: int, group: dist.ProcessGroup, kept_Tk: Tensor | None = None) -> Dispatch:
    """Sort the choices by expert and tell every rank how many rows come. Collective over the expert axis.

    Args:
        experts_Tk: int64 experts that each token chose.
        num_experts: E; each rank holds E / ep consecutive ones.
        group: the expert axis.
        kept_Tk: bool; choices that are not kept leave no row. None: all are.
    """
    T, k = experts_Tk.shape
    chosen = experts_Tk if kept_Tk is None else experts_Tk.masked_fill(~kept_Tk, num_experts)  # the dropped ones last
    sorted_A, order_A = chosen.flatten().sort(stable=True)
    numbers = torch.arange(num_experts + 1, device=chosen.device)
    counts_E = torch.searchsorted(sorted_A, numbers).diff()
    here = num_experts // group.size()
    arriving_RE = all_to_all(counts_E, [here] * group.size(), [here] * group.size(), group).view(group.size(), here)
    leaving, arriving = torch.stack((counts_E.view(group.size(), here), arriving_RE)).tolist()  # the host must know the sizes
    arrived = [sum(row) for row in arriving]
    experts_Q = numbers[:here].repeat(group.size()).repeat_interleave(arriving_RE.flatten(), output_size=sum(arrived))
    sent = [sum(row) for row in leaving]
    return Dispatch((T, k), order_A[:sum(sent)], experts_Q.sort(stable=True).indices, sent, arrived,
                    [sum(column) for column in zip(*arriving, strict=True)])


def dispatch(x_TH: Tensor, plan: Dispatch, group: dist.ProcessGroup) -> Tensor:
    """Each token's row to each of its experts, over the expert axis: [T, H] -> [Q, H], by expert."""
    rows_RH = _Take.apply(x_TH, plan.order_R, plan.choices[1])
    return _Take.apply(_exchanged(rows_RH, plan.sent, plan.arrived, group), plan.regroup_Q, 1)


def combine(rows_QH: Tensor, plan: Dispatch, group: dist.ProcessGroup) -> Tensor:
    """The experts' rows back where their tokens are: [Q, H] -> [T, k, H], zero for choices that were not kept."""
    T, k = plan.choices
    arrived_QH = rows_QH.new_zeros(rows_QH.shape).index_copy(0, plan.regroup_Q, rows_QH)
    rows_RH = _exchanged(arrived_QH, plan.arrived, plan.sent, group)
    return rows_QH.new_zeros(T * k, rows_QH.shape[1]).index_copy(0, plan.order_R, rows_RH).unflatten(0, (T, k))


def _exchanged(rows: Tensor, sent: list[int], arrived: list[int], group: dist.ProcessGroup) -> Tensor:
    return rows if group.size() == 1 else _Exchange.apply(rows, sent, arrived, group)
