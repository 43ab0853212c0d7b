"""Sequence parallelism, shared kv heads and the overlapped backward pass: every variant computes what one process computes."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from hexareme.conf.schema import Activation, ModelConfig, Normalization, Positions
from hexareme.core.generation import generate
from hexareme.core.loss import LossModel
from hexareme.core.model import norms
from hexareme.core.model.build import build_model
from hexareme.core.model.transformer import Transformer
from hexareme.parallel import collectives, embedding, heads, linear
from hexareme.parallel.context import LayerGroups
from hexareme.parallel.partition import ShardSpec
from hexareme.parallel.partition_module import placed_parameters
from torch import Tensor
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from ..ranks import RankError, run_ranks, run_single, world
from .reference import GPT2, LLAMA, batch, gather, gradient
from .test_model_parallel import Calls

CONFIGS = {
    "gpt2": replace(GPT2, dropout=0.1, attention_dropout=0.1, num_kv_heads=2),
    "llama": replace(LLAMA, num_heads=8, num_kv_heads=4, dropout=0.1),
    "llama_biased_one_kv_head": replace(LLAMA, num_kv_heads=1, bias=True, dropout=0.1),
}


class Variant(NamedTuple):
    """How the tensor axis works inside."""

    sequence_parallel: bool = False
    recompute: str = "none"
    overlap: bool = False
    precision: str = "fp32"


class Outcome(NamedTuple):
    """What a rank knows after one forward and backward pass."""

    logits: Tensor
    loss: Tensor
    gradients: list[tuple[str, ShardSpec, Tensor]]


def model_of(config: ModelConfig, variant: Variant) -> Transformer:
    groups = replace(LayerGroups.of_tensor_axis(world()), sequence_parallel=variant.sequence_parallel, overlap=variant.overlap)
    return build_model(config, seed=3, groups=groups, device="cpu", recompute=variant.recompute)


def run(config: ModelConfig, variant: Variant) -> Outcome:
    documents = torch.arange(48).div(20, rounding_mode="floor").expand(3, -1)
    model, inputs = model_of(config, variant), batch(config, documents=documents)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda *call: seen.append(call[2].detach()) and None)
    loss = LossModel(model, precision=variant.precision)(inputs, inputs.tokens_BS.roll(-1, 1), torch.ones(3, 48)) / 144
    loss.backward()
    return Outcome(seen[0], loss.detach(), [(each.name, each.shard, gradient(each.parameter)) for each in placed_parameters(model)])


def outcomes(config: ModelConfig, variants: Iterable[Variant], tp: int) -> list[list[Outcome]]:
    """Of each variant, of each rank."""
    ranks = run_ranks(lambda _: [run(config, variant) for variant in variants], tp)
    return [[rank[i] for rank in ranks] for i in range(len(ranks[0]))]


def whole_gradients(ranks: list[Outcome]) -> dict[str, Tensor]:
    """By name, each filled by the parts of every rank; equal parts must be equal to the bit."""
    parts = [({name: tensor}, {name: shard}) for rank in ranks for name, shard, tensor in rank.gradients]
    joined: dict[str, list[Any]] = {}
    for tensors, shards in parts:
        joined.setdefault(next(iter(tensors)), []).append((tensors, shards))
    return {name: gather(held)[name] for name, held in joined.items()}


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, norm-wise; key biases have no gradient but rounding, so tiny norms count as 1e-3."""
    return float((found - wanted).float().norm() / wanted.float().norm().clamp(min=1e-3))


def difference(ranks: list[Outcome], one: Outcome, vocab_size: int) -> float:
    """The largest of the logits', the loss's and every gradient's."""
    assert all(torch.equal(rank.loss, ranks[0].loss) for rank in ranks), "the ranks disagree on the loss"
    logits = torch.cat([rank.logits for rank in ranks], dim=-1)[..., :vocab_size]
    found, wanted = whole_gradients(ranks), whole_gradients([one])
    assert found.keys() == wanted.keys()
    return max(distance(logits, one.logits), distance(ranks[0].loss, one.loss), *(distance(found[n], wanted[n]) for n in wanted))


@pytest.fixture(scope="module")
def one_process() -> Callable[[str, str], Outcome]:
    known: dict[tuple[str, str], Outcome] = {}

    def outcome(name: str, precision: str = "fp32") -> Outcome:
        if (name, precision) not in known:
            known[name, precision] = run_single(lambda _: run(CONFIGS[name], Variant(precision=precision)))
        return known[name, precision]

    return outcome


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_equals_one_process(name: str, tp: int, one_process: Any) -> None:
    variants = [Variant(*each) for each in product((False, True), ("none", "selective", "full"), (False, True))]
    for variant, ranks in zip(variants, outcomes(CONFIGS[name], variants, tp), strict=True):
        assert difference(ranks, one_process(name), 257) < 1e-5, variant


@pytest.mark.parametrize(("name", "tp"), [("gpt2", 4), ("llama_biased_one_kv_head", 2)])
def test_bf16_is_no_further_from_fp32_than_on_one_process(name: str, tp: int, one_process: Any) -> None:
    exact, rounded = one_process(name), whole_gradients([one_process(name, "bf16")])
    wanted = whole_gradients([exact])
    variants = [Variant(*each, precision="bf16") for each in product((False, True), ("none", "selective", "full"), (False, True))]
    found = outcomes(CONFIGS[name], variants, tp)
    for variant, ranks in zip(variants, found, strict=True):
        assert distance(ranks[0].loss, exact.loss) < 2e-3, variant
        for key, value in whole_gradients(ranks).items():
            assert distance(value, wanted[key]) < 1.5 * distance(rounded[key], wanted[key]) + 1e-3, (variant, key)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overlap_changes_no_bit(precision: str) -> None:
    variants = [Variant(sequence, policy, overlap, precision)
                for sequence in (False, True) for policy in ("none", "selective", "full") for overlap in (False, True)]
    found = outcomes(CONFIGS["llama_biased_one_kv_head"], variants, 2)
    for plain, overlapped in zip(found[::2], found[1::2], strict=True):
        for a, b in zip(plain, overlapped, strict=True):
            assert torch.equal(a.loss, b.loss)
            assert all(torch.equal(x, y) for (_, _, x), (_, _, y) in zip(a.gradients, b.gradients, strict=True))


MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "gather's backward": (collectives._Gather, "backward", lambda ctx, g: (collectives.own_slice(g, ctx.group, 1), None)),
    "reduce-scatter's backward": (collectives._ReduceScatter, "backward", lambda ctx, g: (g.repeat(1, ctx.group.size(), 1), None)),
    "copy's backward": (collectives._Copy, "backward", lambda ctx, g: (g, None)),
    "norm weights": (norms, "residual_parameters", lambda *parameters, **_: parameters),
    "row biases": (linear, "residual_parameter", lambda parameter, *_, **__: parameter),
    "learned positions": (embedding, "residual_parameter", lambda parameter, *_, **__: parameter),
    "places of dropout": (collectives, "own_slice", lambda tensor, group, dim: tensor.narrow(dim, 0, tensor.shape[dim] // group.size())),
    "sum over shared kv heads": (heads._SumOfRepeated, "backward", lambda ctx, g: (g, None, None)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_protection_is_needed(mutation: str, one_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, changed = MUTATIONS[mutation]
    one = one_process("gpt2")
    monkeypatch.setattr(owner, attribute, staticmethod(changed) if isinstance(owner, type) else changed)
    [ranks] = outcomes(CONFIGS["gpt2"], [Variant(sequence_parallel=True)], 4)
    try:
        found = difference(ranks, one, 257)
    except AssertionError as error:
        assert "differ" in str(error) or "disagree" in str(error)  # equal copies no longer are: as red as can be
    else:
        assert found > 1e-3


def test_selective_recomputation_repeats_no_collective_of_the_sequence() -> None:
    def rank(_: int) -> list[Counter[str]]:
        counts = []
        for policy in ("none", "selective", "full"):
            with Calls() as calls:
                run(CONFIGS["llama"], Variant(True, policy))
            counts.append(calls.counts)
        return counts

    none, selective, full = run_ranks(rank, 2)[0]
    for operator in ("aten::mm", "_c10d_functional::all_gather_into_tensor", "_c10d_functional::reduce_scatter_tensor"):
        assert 0 < none[operator] == selective[operator] < full[operator]
    assert none["aten::silu"] < selective["aten::silu"] == full["aten::silu"]


def test_a_sequence_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(RankError, match=r"47 tokens cannot be cut over parallel.tp=2; set parallel.sequence_parallel=false"):
        run_ranks(lambda _: model_of(CONFIGS["llama"], Variant(True))(batch(CONFIGS["llama"], length=47)) and None, 2)


def test_the_padding_of_a_vocabulary_never_learns_and_is_never_drawn() -> None:
    """GPT-2's 50257 on four ranks: 3 rows of padding, in the embedding and in a head of its own."""
    config = ModelConfig(vocab_size=50257, sequence_length=8, num_layers=1, hidden_size=8, ffn_hidden_size=8, num_heads=4, num_kv_heads=4,
                         positions=Positions.rope, normalization=Normalization.rmsnorm, activation=Activation.swiglu, bias=False,
                         tie_embeddings=False, initializer_std=0.5)

    def rank(number: int) -> tuple[list[float], list[int]]:
        model, inputs = model_of(config, Variant(sequence_parallel=True)), batch(config, samples=8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        losses = []
        for _ in range(3):
            loss = LossModel(model)(inputs, inputs.tokens_BS.roll(-1, 1), torch.ones(8, 8)) / 64
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        assert model.embedding is not None and model.head is not None
        if world().size() == 4 and number == 3:
            for weight in (model.embedding.tokens.weight, model.head.weight):
                assert weight.shape[0] == 12565
                assert weight[:-3].all() and not weight[-3:].any()
                assert not optimizer.state[weight]["exp_avg"][-3:].any()
        whole = model_of(config, Variant())  # one token at a time cannot be cut
        whole.load_state_dict(model.state_dict())
        return losses, [draw for seed in range(4) for draw in generate(whole, [1], max_new_tokens=7, temperature=1e6, seed=seed)]

    one, *_ = run_ranks(rank, 1)
    for losses, drawn in run_ranks(rank, 4):
        assert max(abs(a - b) / b for a, b in zip(losses, one[0], strict=True)) < 1e-5
        assert max(drawn) < 50257
        assert len(set(drawn)) > 20  # nearly uniform draws: each row of padding would have its chance


@pytest.mark.parametrize("name", ["gpt2", "llama_biased_one_kv_head"])
def test_a_split_backward_pass_runs_each_collective_once(name: str) -> None:
    """torch's own split, as its zero-bubble schedules call it: first the input's gradient, then the weights'."""
    def rank(_: int) -> None:
        config = CONFIGS[name]
        model, inputs = model_of(config, Variant(sequence_parallel=True)), batch(config)
        shared, x = model.shared(inputs), torch.randn(3, 48 // world().size(), 64, generator=torch.Generator().manual_seed(world().rank()))
        results = []
        for split in (False, True):
            model.zero_grad()
            start, block = x.clone().requires_grad_(), model.blocks["1"]
            y = block(start, shared)
            with Calls() as calls:
                if split:
                    _, groups = stage_backward_input([y], [y.detach().cos()], [start], block.parameters())
                    stage_backward_weight(block.parameters(), groups)
                else:
                    y.backward(y.detach().cos())
            results.append(([start.grad, *(p.grad for p in block.parameters())],
                            {name: count for name, count in calls.counts.items() if "c10d" in name}))
        (whole, once), (parts, counted) = results
        assert counted == once
        assert once["_c10d_functional::all_reduce"] >= 2
        for a, b in zip(parts, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    run_ranks(rank, 4)
