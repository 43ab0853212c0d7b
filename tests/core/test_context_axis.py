"""The context axis: a step whose windows are cut over ranks is the step of one process, dropout on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hexareme.conf.schema import ModelConfig
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.partition import ShardSpec
from hexareme.parallel.partition_module import placed_parameters
from hexareme.parallel.topology import Topology
from torch import Tensor

from ..ranks import run_ranks
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
@pytest.mark.parametrize(("world_size", "layout"), LAYOUTS, ids=lambda value: str(value))
def test_every_cut_takes_the_step_of_one_process(world_size: int, layout: dict[str, Any], name: str, alone: Any) -> None:
    documents = name.startswith("llama")
    loss, gradient = differences(run_ranks(step, world_size, CONFIGS[name], layout, documents), alone(name, documents))
    assert loss < 1e-6
    assert gradient < 1e-5
