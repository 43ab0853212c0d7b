"""Vocab-parallel cross entropy against torch's."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hexareme.parallel import cross_entropy
from hexareme.parallel.cross_entropy import vocab_parallel_cross_entropy

from ..ranks import run_ranks, world


def columns_here(whole: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """This rank's columns; what pads them would win if it counted."""
    width = -(-whole.shape[-1] // group.size())
    padded = F.pad(whole, (0, width * group.size() - whole.shape[-1]), value=1e4)
    return padded.chunk(group.size(), -1)[group.rank()]


@pytest.mark.parametrize("chunk", [2**22, 300])
@pytest.mark.parametrize(("tp", "vocab_size"), [(1, 257), (2, 257), (2, 256), (4, 5), (3, 257)])
def test_equals_torch(tp: int, vocab_size: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK", chunk)

    def rank(_: int) -> None:
        torch.manual_seed(0)
        group = world()
        whole = (torch.randn(3, 7, vocab_size) * 5).requires_grad_()
        targets = torch.randint(vocab_size, (3, 7))
        weights = torch.rand(3, 7)
        wanted = F.cross_entropy(whole.flatten(0, 1), targets.flatten(), reduction="none").view(3, 7)
        (wanted * weights).sum().backward()
        logits = columns_here(whole.detach(), group).clone().requires_grad_()
        loss = vocab_parallel_cross_entropy(logits, targets, vocab_size=vocab_size, group=group)
        torch.testing.assert_close(loss, wanted, rtol=2e-6, atol=2e-6)
        for _again in range(2):  # the backward pass may run twice
            logits.grad = None
            (loss * weights).sum().backward(retain_graph=True)
            assert whole.grad is not None
            assert logits.grad is not None
            gradient = columns_here(whole.grad, group)
            torch.testing.assert_close(logits.grad, torch.where(gradient == 1e4, 0.0, gradient), rtol=1e-5, atol=1e-6)

    run_ranks(rank, tp)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_low_precision_logits_are_widened(scale: float) -> None:
    def rank(_: int) -> None:
        torch.manual_seed(0)
        group = world()
        whole = (torch.randn(2, 4, 64) * scale).bfloat16()
        targets = torch.randint(64, (2, 4))
        wanted = F.cross_entropy(whole.float().flatten(0, 1), targets.flatten(), reduction="none").view(2, 4)
        logits = columns_here(whole, group).clone().requires_grad_()
        loss = vocab_parallel_cross_entropy(logits, targets, vocab_size=64, group=group)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, wanted, rtol=2e-6, atol=2e-6)
        loss.sum().backward()
        assert logits.grad is not None
        assert logits.grad.dtype == torch.bfloat16
        assert logits.grad.isfinite().all()

    run_ranks(rank, 2)


def test_other_shapes_are_refused() -> None:
    def rank(_: int) -> None:
        with pytest.raises(ValueError, match="do not fit"):
            vocab_parallel_cross_entropy(torch.zeros(1, 2, 8), torch.zeros(1, 2, dtype=torch.int64), vocab_size=9, group=world())

    run_ranks(rank, 1)
