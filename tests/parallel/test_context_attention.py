"""Ring attention and Ulysses against torch's own attention over whole windows on one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hexareme.parallel import ring_attention as ring
from hexareme.parallel.ring_attention import block_attention, ring_attention
from hexareme.parallel.sequence_cut import places
from hexareme.parallel.traffic import TrafficRecorder
from hexareme.parallel.ulysses import to_heads, to_sequence
from hexareme.parallel.window import gather_window
from torch import Tensor

from ..ranks import run_ranks, world

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
    return [out, *torch.autograd.grad(out, (q, k, v), slope)]


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
        found = [out, *torch.autograd.grad(out, (q, k, v), slope)]
        return [float((a - b[:, :, here]).abs().max()) for a, b in zip(found, wanted, strict=True)]

    return [max(each) for each in zip(*run_ranks(rank, cp), strict=True)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cp", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_degree_gives_torchs_attention_and_gradients(kind: str, cp: int, case: str) -> None:
    assert max(distances(kind, cp, case)) < 2e-6


@pytest.mark.parametrize("case", ["plain", "one kv head"])
def test_ring_is_exact_in_float64_also_in_small_tiles(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_TILE", 3)
    assert max(distances("ring", 2, case, torch.float64)) < 1e-14
