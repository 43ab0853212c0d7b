"""Ring attention and Ulysses against torch's own attention over whole windows on one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hexareme.parallel import ring_attention as ring
from hexareme.parallel.ring_attention import block_attention, join, ring_attention
from hexareme.parallel.sequence_cut import places, ring_block
from hexareme.parallel.traffic import TrafficRecorder
from hexareme.parallel.ulysses import to_heads, to_sequence
from hexareme.parallel.window import gather_window
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..ranks import RankError, run_ranks, world

S, D = 16, 8
CASES = {  # query heads, kv heads, samples, documents
    "plain": (4, 4, 3, False), "grouped": (8, 2, 1, False), "one kv head": (4, 1, 2, True), "documents": (4, 2, 3, True)}


def inputs(case: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor | None]:
    """q, k, v and the gradient of the result, whole, and documents; the same on every rank."""
    heads, kv_heads, B, with_documents = CASES[case]
    generator = torch.Generator().manual_seed(7)
    tensors = [torch.randn(B, N, S, D, generator=generator, dtype=torch.float64).to(dtype) for N in (heads, kv_heads, kv_heads, heads)]
    documents = torch.cumsum(torch.rand(B, S, generator=generator) > 0.8, dim=1)
    return tensors, documents if with_documents else None


def reference(tensors: list[Tensor], documents: Tensor | None) -> list[Tensor]:
    """The result of torch's attention and its gradients."""
    q, k, v, slope = (x.detach().clone().requires_grad_() for x in tensors)
    mask = torch.ones(S, S, dtype=torch.bool).tril()[None, None]
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), slope)]


def by_ring(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, group: dist.ProcessGroup) -> Tensor:
    return ring_attention(q, k, v, group=group, documents_BW=documents)


def by_ulysses(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, group: dist.ProcessGroup) -> Tensor:
    q, k, v = to_heads(q, k, v, group)
    mask = torch.ones(S, S, dtype=torch.bool).tril()[None, None]
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    return to_sequence(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True), group)


KINDS: dict[str, Callable[..., Tensor]] = {"ring": by_ring, "ulysses": by_ulysses}


def distances(kind: str, cp: int, case: str, dtype: torch.dtype = torch.float32, *, autocast: bool = False) -> list[float]:
    """Largest differences of the result and of each gradient on any rank, from the same in float64 on one process."""
    wanted = reference(inputs(case, torch.float64)[0], inputs(case)[1])

    def rank(number: int) -> list[float]:
        here = torch.tensor(places(S, cp=cp, rank=number, kind=kind))
        tensors, documents = inputs(case, dtype)
        q, k, v, slope = (x[:, :, here].clone().requires_grad_() for x in tensors)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = KINDS[kind](q, k, v, documents, world())
        assert out.dtype == dtype
        found = [out.detach(), *torch.autograd.grad(out, (q, k, v), slope)]
        return [float((a - b[:, :, here]).abs().max()) for a, b in zip(found, wanted, strict=True)]

    return [max(each) for each in zip(*run_ranks(rank, cp), strict=True)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cp", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_degree_gives_torchs_attention_and_gradients(kind: str, cp: int, case: str) -> None:
    assert max(distances(kind, cp, case)) < 2e-6


@pytest.mark.parametrize("case", ["plain", "one kv head"])
def test_ring_is_exact_in_float64_also_in_small_tiles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_HOST_SCORES", 200)  # a few queries
    assert max(distances("ring", 2, case, torch.float64)) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_as_near_as_torchs_own_bf16(kind: str) -> None:
    (tensors, documents), (rough, _) = inputs("documents", torch.float64), inputs("documents", torch.bfloat16)
    torchs = max(float((a - b).abs().max()) for a, b in zip(reference(rough, documents), reference(tensors, documents), strict=True))
    assert 1e-3 < max(distances(kind, 2, "documents", torch.bfloat16)) < 1.5 * torchs


def test_autocast_does_not_reach_into_the_ring() -> None:
    assert max(distances("ring", 2, "grouped", autocast=True)) < 2e-6


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.integers(1, 5))
def test_joined_blocks_are_the_attention_to_all_their_keys(flags: list[bool], split: int) -> None:
    """Also where a query sees no key of one of the blocks."""
    generator = torch.Generator().manual_seed(split)
    q, k, v = (torch.randn(1, 2, rows, 4, generator=generator, dtype=torch.float64) for rows in (2, 6, 6))
    seen = torch.tensor(flags).view(1, 2, 6)
    seen[:, :, 0] = True
    out, lse = torch.zeros_like(q), torch.full((1, 2, 2), -torch.inf, dtype=q.dtype)
    for part in (slice(0, split), slice(split, 6)):
        join(out, lse, *block_attention(q, k[:, :, part], v[:, :, part], seen[:, :, part]))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None]))


def test_a_query_without_keys_gets_zeros_and_minus_infinity() -> None:
    q, k = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 3, 4)
    out, lse = block_attention(q, k, k, torch.zeros(1, 1, 3, dtype=torch.bool))
    assert not out.any()
    assert lse.item() == -torch.inf


@pytest.mark.parametrize("cp", [2, 4])
def test_what_each_way_sends(cp: int) -> None:
    """In bytes of a rank's own keys, grouped heads unrepeated; the ring's gradients are fp32 also where its keys are bf16."""
    heads, kv_heads, B, _ = CASES["grouped"]
    head = B * (S // cp) * D * 2  # bytes of one head of a rank's tokens in bf16

    def rank(number: int) -> list[tuple[set[str], float]]:
        found = []
        for kind in ("ring", "ulysses"):
            here = torch.tensor(places(S, cp=cp, rank=number, kind=kind))
            q, k, v, slope = (x[:, :, here].clone().requires_grad_() for x in inputs("grouped", torch.bfloat16)[0])
            with TrafficRecorder() as forward:
                out = KINDS[kind](q, k, v, None, world())
            with TrafficRecorder() as backward:
                torch.autograd.grad(out, (q, k, v), slope)
            found += [({call.kind for call in each.calls}, sum(call.sent for call in each.calls)) for each in (forward, backward)]
        return found

    kv_whole = max(kv_heads, cp)
    exchanged = (2 * heads + 2 * kv_whole) * head * (cp - 1) / cp
    for found in run_ranks(rank, cp):
        assert found == [({"send"}, (cp - 1) * 2 * kv_heads * head), ({"send"}, (cp - 1) * 2 * kv_heads * 3 * head),
                         ({"all_to_all"}, exchanged), ({"all_to_all"}, exchanged)]


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [each for each in (out if isinstance(out, tuple | list) else (out,)) if isinstance(each, Tensor)]
        self.elements = max([self.elements, *(each.numel() for each in made)])
        return out


def test_the_ring_never_holds_the_keys_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_HOST_SCORES", 128)  # two queries of four heads against 16 keys

    def rank(_: int) -> int:
        q, k, v = (torch.randn(1, 4, 16, 32, requires_grad=True) for _ in range(3))  # a window of 64
        with Largest() as largest:
            by_ring(q, k, v, None, world()).sum().backward()
        return largest.elements

    assert max(run_ranks(rank, 4)) == 2 * 4 * 16 * 32  # this rank's keys and values, stacked; the window's keys alone are twice as many


def test_keys_leave_before_anyone_computes_with_them() -> None:
    class Order(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func._schema.name
            self.names += [name] if name in ("c10d::send", "aten::bmm", "aten::logaddexp") else []
            return func(*args, **(kwargs or {}))

    def rank(_: int) -> list[str]:
        q, k, v, _slope = inputs("plain")[0]
        with Order() as order:
            by_ring(q, k, v, None, world())
        return order.names

    block = ["aten::bmm", "aten::bmm", "aten::logaddexp"]
    assert run_ranks(rank, 3) == [["c10d::send", *block, "c10d::send", *block, *block]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_gathered_window_is_in_order_and_its_gradient_comes_home(kind: str) -> None:
    def rank(number: int) -> None:
        here = torch.tensor(places(S, cp=4, rank=number, kind=kind))
        x = here[None].double().requires_grad_()
        whole = gather_window(x, world(), kind=kind)
        assert whole.tolist() == [list(range(S))]
        (whole * (number + 1) * torch.arange(S)).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [(10 * here).tolist()]  # of 1 + 2 + 3 + 4

    run_ranks(rank, 4)


def test_ulysses_refuses_heads_that_it_cannot_divide() -> None:
    def rank(_: int) -> None:
        to_heads(torch.zeros(1, 6, 4, 8), torch.zeros(1, 6, 4, 8), torch.zeros(1, 6, 4, 8), world())

    way_out = r"parallel.cp=4 must divide the 6 query heads .*; try parallel.cp in \[1, 2, 3, 6\], or parallel.context_attention=ring"
    with pytest.raises(RankError, match=way_out):
        run_ranks(rank, 4)


# The gate can fail: each part of the method, broken, is seen.


def test_another_order_of_chunks_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "ring_block", lambda rank, source, length: ring_block((rank + 1) % 2, (source + 1) % 2, length))
    assert min(distances("ring", 2, "plain")) > 1e-2


def test_adding_blocks_without_their_weights_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
        out += more
        lse.copy_(torch.logaddexp(lse, more_lse))

    monkeypatch.setattr(ring, "join", add)
    assert distances("ring", 2, "plain")[0] > 1e-2


def test_keys_of_another_document_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_held", lambda documents, rank, cp: torch.zeros_like(documents[:, :S // cp]))
    assert min(distances("ring", 2, "documents")) > 1e-2


def test_a_lost_gradient_of_travelling_keys_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = ring._Passed.arrived
    monkeypatch.setattr(ring._Passed, "arrived", lambda self: passed(self) * (self._sent.dtype == torch.bfloat16))
    wrong = distances("ring", 2, "plain", torch.bfloat16)
    assert min(wrong[2:]) > 0.1 > max(wrong[:2])
