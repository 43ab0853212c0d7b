"""The context axis: a step whose windows are cut over ranks is the step of one process, dropout on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import hexareme.core.inputs as inputs_module
import pytest
import torch
import torch.distributed as dist
from hexareme.conf.schema import ModelConfig
from hexareme.core.evaluation import EvaluationResult, evaluate
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.loss import LossModel
from hexareme.core.model.attend import Attend
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.data.samples.dataset import ValidationSet
from hexareme.data.tokens.token_file import TokenFile
from hexareme.parallel.context import LayerGroups, ParallelContext
from hexareme.parallel.partition import ShardSpec
from hexareme.parallel.partition_module import placed_parameters
from hexareme.parallel.sequence_cut import chunks
from hexareme.parallel.topology import Topology
from hexareme.parallel.traffic import TrafficRecorder
from torch import Tensor
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from ..data.token_files import random_documents, write_tokens
from ..ranks import RankError, run_ranks
from .reference import GPT2, LLAMA, gather

B = 4
CONFIGS = {
    "gpt2": replace(GPT2, dropout=0.1),
    "llama": replace(LLAMA, dropout=0.1),
    "gpt2, attention dropout": replace(GPT2, dropout=0.1, attention_dropout=0.1),
    "llama, attention dropout": replace(LLAMA, attention_dropout=0.2),
}
Outcome = tuple[Tensor, tuple[dict[str, Tensor], dict[str, ShardSpec]]]


def windows(config: ModelConfig, *, documents: bool) -> MicroBatch:
    """Four samples, the same whoever asks; positions start again at each document, and the loss mask differs from sample to sample."""
    S, generator = config.sequence_length, torch.Generator().manual_seed(11)
    ids = torch.randint(config.vocab_size, (B, S + 1), generator=generator)
    starts = torch.rand(B, S, generator=generator) > 0.9
    mask = (torch.rand(B, S, generator=generator) < torch.rand(B, 1, generator=generator)).float()
    positions = torch.arange(S).repeat(B, 1)
    if documents:
        positions = positions - torch.where(starts, positions, 0).cummax(dim=1).values
    inputs = ModelInput(ids[:, :-1], positions, torch.cumsum(starts, dim=1) if documents else None, torch.arange(B) + 100, torch.tensor(5))
    return MicroBatch(inputs, ids[:, 1:], mask)


def rows(micro: MicroBatch, at: slice) -> MicroBatch:
    """Some samples of a micro-batch."""
    i = micro.inputs
    documents = None if i.documents_BS is None else i.documents_BS[at]
    cut = i._replace(tokens_BS=i.tokens_BS[at], positions_BS=i.positions_BS[at], documents_BS=documents, samples_B=i.samples_B[at])
    return MicroBatch(cut, micro.targets_BS[at], micro.loss_mask_BS[at])


def step(rank: int, config: ModelConfig, layout: dict[str, Any], documents: bool, precision: str = "fp32") -> Outcome:
    """Loss of the global batch, and this rank's gradients of it with their places."""
    topology = Topology.divide(world_size=dist.get_world_size(), tp=layout.get("tp", 1), cp=layout.get("cp", 1))
    context = ParallelContext.create(topology, rank)
    groups = context.layer_groups(sequence_parallel=layout.get("sequence_parallel", False), context_attention=layout.get("kind", "ring"))
    transformer = build_model(config, seed=3, groups=groups, device="cpu", recompute=layout.get("recompute", "none"))
    whole, share = windows(config, documents=documents), B // topology.dp
    place = context.coordinate.dp
    micro = cut_to_context(rows(whole, slice(place * share, (place + 1) * share)), groups)
    loss = LossModel(transformer, precision=precision)(*micro_arguments(micro)) / whole.loss_mask_BS.sum()
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total, group=context.data)
    gradients, specs = {}, {}
    for each in placed_parameters(transformer):
        assert each.parameter.grad is not None, each.name
        dist.all_reduce(each.parameter.grad, group=context.data)
        if not each.copy:
            gradients[each.name], specs[each.name] = each.parameter.grad, each.shard
    return total, (gradients, specs)


def micro_arguments(micro: MicroBatch) -> tuple[ModelInput, Tensor, Tensor]:
    return micro.inputs, micro.targets_BS, micro.loss_mask_BS


def differences(ranks: list[Outcome], alone: Outcome) -> tuple[float, float]:
    """Relative difference of the loss, and the largest of any whole gradient, norm-wise."""
    wanted, (gradients, _) = alone
    found = gather([rank[1] for rank in ranks])
    assert found.keys() == gradients.keys()
    scale = max(float(gradient.norm()) for gradient in gradients.values())
    worst = max(float((found[name] - gradient).norm() / max(float(gradient.norm()), 1e-3 * scale)) for name, gradient in gradients.items())
    return max(float(abs(rank[0] - wanted) / wanted) for rank in ranks), worst


@pytest.fixture(scope="module")
def alone() -> Any:
    """The same step on one process, once for each model."""
    known: dict[tuple[str, bool], Outcome] = {}

    def of(name: str, documents: bool) -> Outcome:
        if (name, documents) not in known:
            known[name, documents] = run_ranks(step, 1, CONFIGS[name], {}, documents)[0]
        return known[name, documents]

    return of


LAYOUTS: list[tuple[int, dict[str, Any]]] = [
    (2, {"cp": 2, "kind": "ring"}), (2, {"cp": 2, "kind": "ulysses"}),
    (4, {"cp": 4, "kind": "ring"}), (4, {"cp": 4, "kind": "ulysses"}),
    (4, {"tp": 2, "cp": 2, "kind": "ring", "sequence_parallel": True}), (4, {"tp": 2, "cp": 2, "kind": "ulysses"}),
    (4, {"cp": 2, "kind": "ring"}), (4, {"cp": 2, "kind": "ulysses"}),
]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("world_size", "layout"), LAYOUTS, ids=str)
def test_every_cut_takes_the_step_of_one_process(world_size: int, layout: dict[str, Any], name: str, alone: Any) -> None:
    documents = name.startswith("llama")
    loss, gradient = differences(run_ranks(step, world_size, CONFIGS[name], layout, documents), alone(name, documents))
    assert loss < 1e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
@pytest.mark.parametrize("policy", ["selective", "full"])
def test_recomputation_changes_no_bit(policy: str, kind: str) -> None:
    layout = {"cp": 2, "kind": kind}
    kept, again = (run_ranks(step, 2, CONFIGS["llama"], layout | {"recompute": each}, True) for each in ("none", policy))
    for (loss, (gradients, _)), (other_loss, (other, _)) in zip(kept, again, strict=True):
        assert torch.equal(loss, other_loss)
        assert all(torch.equal(gradients[name], other[name]) for name in gradients)


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
def test_bf16_is_as_far_from_fp32_as_on_one_process(kind: str, alone: Any) -> None:
    exact = alone("llama", True)
    loss, gradient = differences(run_ranks(step, 1, CONFIGS["llama"], {}, True, "bf16"), exact)
    found_loss, found_gradient = differences(run_ranks(step, 2, CONFIGS["llama"], {"cp": 2, "kind": kind}, True, "bf16"), exact)
    assert 1e-7 < found_loss < 2 * max(loss, 1e-3)
    assert 1e-4 < found_gradient < 2 * gradient


def test_selective_recomputation_repeats_no_exchange_but_lets_keys_go_round_again() -> None:
    """Kept keys of the whole window would take the memory that the ring saves."""
    def rank(number: int) -> list[Counter[str]]:
        counts = []
        for kind in ("ring", "ulysses"):
            with TrafficRecorder() as recorder:
                step(number, CONFIGS["gpt2"], {"cp": 2, "kind": kind, "recompute": "selective"}, False)
            counts.append(Counter(call.kind for call in recorder.calls))
        return counts

    layers = GPT2.num_layers
    for ring, ulysses in run_ranks(rank, 2):
        assert ring["send"] == layers * (1 + 1 + 2)  # forward, forward again, and backward: keys and their gradients
        assert ulysses["all_to_all"] == layers * (2 + 2)


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
def test_a_split_backward_pass_sends_everything_once(kind: str) -> None:
    """torch's own split, as its zero-bubble schedules call it: first the input's gradient, then the weights'."""
    def rank(number: int) -> None:
        config, groups = CONFIGS["llama"], ParallelContext.create(Topology(cp=2), number).layer_groups(context_attention=kind)
        transformer = build_model(config, seed=3, groups=groups, device="cpu")
        block, shared = transformer.blocks["0"], transformer.shared(cut_to_context(windows(config, documents=True), groups).inputs)
        x = torch.randn(B, config.sequence_length // 2, config.hidden_size, generator=torch.Generator().manual_seed(number))
        results = []
        for split in (False, True):
            block.zero_grad()
            start = x.clone().requires_grad_()
            y = block(start, shared)
            with TrafficRecorder() as recorder:
                if split:
                    _, parts = stage_backward_input([y], [y.detach().cos()], [start], block.parameters())
                    stage_backward_weight(block.parameters(), parts)
                else:
                    y.backward(y.detach().cos())
            results.append(([start.grad, *(p.grad for p in block.parameters())], Counter(call.kind for call in recorder.calls)))
        (whole, once), (apart, counted) = results
        assert counted == once == {"ring": {"send": 2}, "ulysses": {"all_to_all": 2}}[kind]
        for a, b in zip(apart, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    run_ranks(rank, 2)


@pytest.mark.parametrize("kind", ["ring", "ulysses"])
def test_validation_loss_and_its_tokens_are_those_of_one_process(kind: str, tmp_path: Path) -> None:
    config = replace(LLAMA, sequence_length=16)
    documents = random_documents(12, 30, config.vocab_size)
    write_tokens(tmp_path / "text", documents)
    validation = ValidationSet(TokenFile(tmp_path / "text"), sequence_length=16, document_mask=True)

    def rank(number: int, cp: int) -> EvaluationResult:
        context = ParallelContext.create(Topology.divide(world_size=dist.get_world_size(), cp=cp), number)
        transformer = build_model(config, seed=3, groups=context.layer_groups(context_attention=kind), device="cpu")
        return evaluate(LossModel(transformer).eval(), validation, micro_size=2, samples=0, data_group=context.data, document_mask=True,
                        device=torch.device("cpu"))

    [alone] = run_ranks(rank, 1, 1)
    for world_size in (2, 4):
        for found in run_ranks(rank, world_size, 2):
            assert found.tokens == alone.tokens == sum(map(len, documents)) - 1
            assert found.loss == pytest.approx(alone.loss, rel=1e-6)


def refused(change: dict[str, Any], layout: dict[str, Any], message: str) -> None:
    with pytest.raises(RankError, match=message):
        run_ranks(step, 4, replace(GPT2, **change), layout, False)


def test_what_does_not_fit_is_refused_with_the_way_out() -> None:
    refused({"num_heads": 2, "num_kv_heads": 2}, {"cp": 4, "kind": "ulysses"}, "parallel.cp=4 must divide the 2 query heads of each tensor")
    refused({"sequence_length": 44}, {"cp": 4}, r"model.sequence_length=44 cannot be cut .* try model.sequence_length=40 or 48, or")
    refused({"sequence_length": 42}, {"cp": 4, "kind": "ulysses"}, "model.sequence_length=42 cannot be cut into parallel.cp=4 equal parts")


def test_windows_that_nobody_cut_are_our_own_mistake() -> None:
    def rank(number: int) -> None:
        groups = ParallelContext.create(Topology(cp=2), number).layer_groups()
        short = replace(GPT2, sequence_length=96)
        build_model(short, seed=3, groups=groups, device="cpu")(windows(GPT2, documents=False).inputs)

    with pytest.raises(RankError, match="cut_to_context"):
        run_ranks(rank, 2)


# The gate can fail: each part of the cut, broken, is seen.


def broken(name: str, layout: dict[str, Any], alone: Any) -> tuple[float, float]:
    documents = name.startswith("llama")
    return differences(run_ranks(step, 2, CONFIGS[name], {"cp": 2} | layout, documents), alone(name, documents))


def test_windows_cut_into_plain_parts_would_be_seen(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "chunks", lambda length, *, cp, rank, kind: chunks(length, cp=cp, rank=rank, kind="ulysses"))
    assert min(broken("gpt2", {"kind": "ring"}, alone)) > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "gpt2, attention dropout"])
def test_places_that_count_from_each_part_would_be_seen(name: str, alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They key dropout; and on the ring with dropout on attention weights they are the mask."""
    cut = inputs_module.cut_to_context

    def wrong(micro: MicroBatch, groups: LayerGroups) -> MicroBatch:
        done = cut(micro, groups)
        return MicroBatch(done.inputs._replace(places_S=torch.arange(done.targets_BS.shape[1])), done.targets_BS, done.loss_mask_BS)

    monkeypatch.setitem(globals(), "cut_to_context", lambda micro, groups: wrong(micro, groups) if groups.context.size() > 1 else micro)
    assert min(broken(name, {"kind": "ring"}, alone)) > 1e-4


def test_positions_that_are_not_cut_would_be_seen(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = inputs_module.cut_to_context

    def wrong(micro: MicroBatch, groups: LayerGroups) -> MicroBatch:
        done = cut(micro, groups)
        positions = micro.inputs.positions_BS[:, :done.targets_BS.shape[1]]
        return MicroBatch(done.inputs._replace(positions_BS=positions), done.targets_BS, done.loss_mask_BS)

    monkeypatch.setitem(globals(), "cut_to_context", wrong)
    assert min(broken("llama", {"kind": "ulysses"}, alone)) > 1e-4


def test_attention_dropout_with_a_ranks_own_head_numbers_would_be_seen(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    explicit = Attend._explicit
    monkeypatch.setattr(Attend, "_explicit", lambda self, q, k, v, shared, *, first_head, positions_S:
                        explicit(self, q, k, v, shared, first_head=0, positions_S=positions_S))
    assert min(broken("gpt2, attention dropout", {"kind": "ulysses"}, alone)) > 1e-4
