"""The tensor axis: two and four ranks compute what one computes, dropout on."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hexareme.conf.schema import ModelConfig
from hexareme.parallel.heads import check_degree, fitting_degrees
from hexareme.parallel.partition_module import placed_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from ..ranks import RankError, run_ranks
from .reference import GPT2, LLAMA, batch, build, gather, loss_and_gradients

CONFIGS = {"gpt2": replace(GPT2, dropout=0.1), "gpt2_attention": replace(GPT2, dropout=0.1, attention_dropout=0.1),
           "llama": replace(LLAMA, dropout=0.1, num_kv_heads=4), "llama_gqa": replace(LLAMA, num_heads=8, num_kv_heads=4, dropout=0.1)}


def outcome(config: ModelConfig, recompute: str = "none"):
    """What a rank knows: logits, loss, (gradients, specs), (initial weights, specs)."""
    def rank(_: int):
        model, inputs = build(config, recompute=recompute), batch(config)
        specs = {each.name: each.shard for each in placed_parameters(model)}
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        loss, gradients = loss_and_gradients(model, inputs)
        return model(inputs).detach(), loss, (gradients, specs), (weights, specs)
    return rank


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_degree_computes_the_same(name: str, tp: int) -> None:
    config = CONFIGS[name]
    [(logits, loss, (gradients, _), (weights, _))] = run_ranks(outcome(config), 1)
    ranks = run_ranks(outcome(config), tp)
    joined = torch.cat([rank[0] for rank in ranks], dim=-1)[..., :config.vocab_size]
    assert (joined - logits).abs().max() <= 1e-5 * max(1.0, float(logits.abs().max()))
    assert all(torch.equal(rank[1], ranks[0][1]) for rank in ranks)
    assert abs(ranks[0][1] - loss) <= 1e-6 * loss
    started = gather([rank[3] for rank in ranks])
    assert all(torch.equal(started[key], weights[key]) for key in weights)  # to the bit
    arrived = gather([rank[2] for rank in ranks])  # also: equal copies are equal, padding is zero
    for key, gradient in gradients.items():
        assert (arrived[key] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), key


@pytest.mark.parametrize("policy", ["selective", "full"])
def test_recomputation_on_the_tensor_axis_changes_no_bit(policy: str) -> None:
    wanted, again = run_ranks(outcome(CONFIGS["llama"]), 2), run_ranks(outcome(CONFIGS["llama"], policy), 2)
    for a, b in zip(wanted, again, strict=True):
        assert torch.equal(a[1], b[1])
        assert all(torch.equal(a[2][0][key], b[2][0][key]) for key in a[2][0])


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name().split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_selective_recomputation_repeats_no_product_and_no_collective() -> None:
    def rank(_: int) -> list[Counter[str]]:
        counts = []
        for policy in ("none", "selective", "full"):
            model, inputs = build(CONFIGS["llama"], recompute=policy), batch(CONFIGS["llama"])
            with Calls() as calls:
                loss_and_gradients(model, inputs)
            counts.append(calls.counts)
        return counts

    none, selective, full = run_ranks(rank, 2)[0]
    for operator in ("aten::mm", "_c10d_functional::all_reduce"):
        assert none[operator] == selective[operator] < full[operator]
    assert none["aten::silu"] < selective["aten::silu"] == full["aten::silu"]


@pytest.mark.parametrize(("change", "message"), [
    ({"hidden_size": 66, "num_heads": 3, "num_kv_heads": 3}, r"parallel.tp=2 must divide model.num_heads=3; try tp in \[1, 3\]"),
    ({"hidden_size": 72, "num_heads": 6, "num_kv_heads": 3},
     r"parallel.tp=2 must divide model.num_kv_heads=3 or be a multiple of it; try tp in \[1, 3, 6\]"),
    ({"ffn_hidden_size": 33}, r"parallel.tp=2 must divide the size 33")])
def test_a_degree_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RankError, match=message):
        run_ranks(lambda _: build(replace(LLAMA, **change)) and None, 2)


def test_the_degrees_that_fit_are_those_that_the_heads_allow() -> None:
    """The issue's odd shape, 6 heads with 2 kv heads, is refused on 4 ranks and repeated on 6."""
    assert fitting_degrees(num_heads=6, num_kv_heads=2) == [1, 2, 6]
    assert fitting_degrees(num_heads=8, num_kv_heads=2) == [1, 2, 4, 8]
    with pytest.raises(ValueError, match=r"parallel.tp=4 must divide model.num_heads=6; try tp in \[1, 2, 6\]"):
        check_degree(4, num_heads=6, num_kv_heads=2)
