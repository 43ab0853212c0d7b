"""Mixture of experts under every layout against one process: loss and every gradient of a step; and that a wrong layout would be seen.

What one process computes is tested against Hugging Face's models and plain loops in test_router.py.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hexareme.conf.schema import Activation, ModelConfig, RouterBalance, RouterScore
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.model.capacity import kept_choices
from hexareme.core.model.routing import collect_routing, routing_metrics, set_auxiliary_scale, set_routing_tape
from hexareme.core.model.routing_tape import RoutingTape
from hexareme.parallel import partition_module
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.partition_module import Placed, placed_parameters
from hexareme.parallel.topology import Topology
from torch import Tensor, nn

from ..ranks import RankError, run_ranks
from .reference import LLAMA, batch, gather, gradient

SAMPLES = 4
SMALL = replace(LLAMA, num_kv_heads=4, hidden_size=32, ffn_hidden_size=24, sequence_length=16, vocab_size=61, num_experts=4, dropout=0.1,
                router_balance_coefficient=0.5)
MIXTRAL = replace(SMALL, router_z_coefficient=0.1)
CAPACITY = replace(MIXTRAL, expert_capacity_factor=0.75)
DEEPSEEK = replace(SMALL, num_experts=8, experts_per_token=3, num_shared_experts=2, expert_ffn_hidden_size=8, dense_layers=1,
                   router_score=RouterScore.sigmoid, router_balance=RouterBalance.bias)
BIASES = replace(CAPACITY, activation=Activation.gelu, bias=True, router_normalize=False, num_shared_experts=1)
CONFIGS = {"mixtral": MIXTRAL, "capacity": CAPACITY, "deepseek": DEEPSEEK, "biases": BIASES}


@dataclass(frozen=True)
class Layout:
    """Degrees and switches; dp is what the world leaves."""

    ranks: int = 1
    tp: int = 1
    cp: int = 1
    ep: int = 1
    sequence_parallel: bool = False
    kind: str = "ring"
    micro_size: int = SAMPLES
    recompute: str = "none"
    precision: str = "fp32"


def step(rank: int, config: ModelConfig, layout: Layout, tape: RoutingTape | None = None) -> dict[str, Any]:
    """One step's loss, gradients reduced as the engine reduces them, statistics, and the tape."""
    topology = Topology.divide(world_size=layout.ranks, tp=layout.tp, cp=layout.cp, ep=layout.ep)
    context = ParallelContext.create(topology, rank)
    groups = context.layer_groups(sequence_parallel=layout.sequence_parallel, context_attention=layout.kind)
    transformer = build_model(config, seed=3, groups=groups, device="cpu", recompute=layout.recompute)
    for name, buffer in transformer.named_buffers():
        if name.endswith("router.bias"):
            buffer.copy_(torch.linspace(-0.2, 0.2, config.num_experts))
    replicas = context.data.size()
    set_auxiliary_scale(transformer, replicas / SAMPLES)
    set_routing_tape(transformer, tape)
    inputs = batch(config, samples=SAMPLES)
    mask = (torch.rand(inputs.tokens_BS.shape, generator=torch.Generator().manual_seed(7)) > 0.3).float()
    model, total = LossModel(transformer, precision=layout.precision), torch.zeros(())
    own = SAMPLES // topology.dp
    first = context.coordinate.dp * own
    for start in range(first, first + own, min(own, layout.micro_size)):
        rows = slice(start, start + min(own, layout.micro_size))
        part = inputs._replace(tokens_BS=inputs.tokens_BS[rows], positions_BS=inputs.positions_BS[rows], samples_B=inputs.samples_B[rows])
        micro = cut_to_context(MicroBatch(part, part.tokens_BS.roll(-1, 1), mask[rows]), groups)
        loss = model(micro.inputs, micro.targets_BS, micro.loss_mask_BS) / mask.sum()
        (loss * replicas).backward()
        total += loss.detach()
    dist.all_reduce(total, group=context.data)
    placed = placed_parameters(transformer)
    for each in placed:
        dist.all_reduce(gradient(each.parameter).div_(replicas), group=context.expert_data if each.expert else context.data)
    statistics = collect_routing(transformer, config)
    assert statistics is not None
    dist.all_reduce(statistics.rows_L, group=context.data)
    gradients = {each.name: gradient(each.parameter) for each in placed}, {each.name: each.shard for each in placed}
    return {"loss": total, "gradients": gradients, "statistics": statistics, "tape": tape}


@pytest.fixture(scope="module")
def wanted() -> dict[str, dict[str, Any]]:
    """One process's step of every config, with its routing on tape."""
    return {name: run_ranks(step, 1, config, Layout(), RoutingTape())[0] for name, config in CONFIGS.items()}


def compare(name: str, layout: Layout, wanted: dict[str, dict[str, Any]]) -> None:
    """Loss, each gathered gradient and statistics as one process has them; its routing is replayed."""
    expected = wanted[name]
    ranks = run_ranks(step, layout.ranks, CONFIGS[name], layout, RoutingTape.replaying([expected["tape"]]))
    assert all(torch.equal(rank["loss"], ranks[0]["loss"]) for rank in ranks)
    assert float(ranks[0]["loss"]) == pytest.approx(float(expected["loss"]), rel=2e-6)
    assert all(rank["tape"].compared > 0 and rank["tape"].disagreeing == 0 for rank in ranks)
    arrived = gather([rank["gradients"] for rank in ranks])
    for key, whole in expected["gradients"][0].items():
        if key.endswith("attention.qkv.bias"):  # of the keys' biases the gradient is 0 but for rounding
            continue
        assert (arrived[key] - whole).norm() <= 1e-5 * whole.norm(), key
    metrics = routing_metrics(expected["statistics"], samples=SAMPLES)
    assert routing_metrics(ranks[-1]["statistics"], samples=SAMPLES) == pytest.approx(metrics, rel=1e-5)


LAYOUTS = {
    "ep2": Layout(2, ep=2),
    "ep4": Layout(4, ep=4),
    "dp2 without ep": Layout(2, micro_size=1),
    "ep2 x dp4, accumulation 1": Layout(4, ep=2, micro_size=1),
    "tp2": Layout(2, tp=2),
    "tp2, sequence parallel": Layout(2, tp=2, sequence_parallel=True),
    "tp2 x ep2": Layout(4, tp=2, ep=2, micro_size=1),
    "tp2 x ep2, sequence parallel, full recomputation": Layout(4, tp=2, ep=2, sequence_parallel=True, recompute="full"),
    "cp2 ring": Layout(2, cp=2),
    "ep2 x cp2 ulysses": Layout(2, cp=2, ep=2, kind="ulysses"),
    "ep4 x cp2 ring, selective recomputation": Layout(4, cp=2, ep=4, micro_size=1, recompute="selective"),
    "tp2 x cp2 x ep2, sequence parallel": Layout(4, tp=2, cp=2, ep=2, sequence_parallel=True),
}


# Every layout and every config in each test run, every pair of them each night.
PAIRS = [pytest.param(name, layout, marks=[pytest.mark.nightly] if (i + j) % 2 else [])
         for i, name in enumerate(CONFIGS) for j, layout in enumerate(LAYOUTS)]


@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_every_layout_has_the_loss_and_the_gradients_of_one_process(name: str, layout: str, wanted: dict[str, dict[str, Any]]) -> None:
    compare(name, LAYOUTS[layout], wanted)


@pytest.mark.parametrize("layout", [Layout(2, ep=2, precision="bf16"), Layout(2, tp=2, sequence_parallel=True, precision="bf16")])
def test_bf16_is_as_near_to_fp32_as_on_one_process(layout: Layout, wanted: dict[str, dict[str, Any]]) -> None:
    def distance(other: Layout) -> float:
        ranks = run_ranks(step, other.ranks, MIXTRAL, other, RoutingTape.replaying([wanted["mixtral"]["tape"]]))
        arrived, whole = gather([rank["gradients"] for rank in ranks]), wanted["mixtral"]["gradients"][0]
        return max(float((arrived[key] - value).norm() / value.norm()) for key, value in whole.items())

    one = distance(Layout(precision="bf16"))
    assert 1e-4 < one < 5e-2
    assert distance(layout) < 1.5 * one


def without_experts(model: nn.Module) -> list[Placed]:
    return [replace(each, expert=False) for each in partition_module.placed_parameters(model)]


def unreduced(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    return tensor


def of_the_micro_batch(experts_Bsk: Tensor, places_s: Tensor, *, capacity: int, num_experts: int, context: dist.ProcessGroup) -> Tensor:
    """Capacity over all samples of a micro-batch at once."""
    B, s, k = experts_Bsk.shape
    whole = kept_choices(experts_Bsk.reshape(1, B * s, k), torch.arange(B * s), capacity=B * capacity, num_experts=num_experts,
                         context=context)
    return whole.view(B, s, k)


def in_order_of_rank(experts_Bsk: Tensor, places_s: Tensor, *, capacity: int, num_experts: int, context: dist.ProcessGroup) -> Tensor:
    """Capacity in the order in which the ranks hold the tokens, not in that of the window."""
    places_s = torch.arange(len(places_s)) + context.rank() * len(places_s)
    return kept_choices(experts_Bsk, places_s, capacity=capacity, num_experts=num_experts, context=context)


ROUTER, HERE = "hexareme.core.model.router", "tests.core.test_experts"
MUTATIONS = {
    "a gate's gradient is not summed over the tensor axis":
        ("hexareme.core.model.experts.copy_to_tensor_axis", unreduced, "mixtral", "tp2"),
    "the router's gradient covers its own shard only":
        (f"{ROUTER}.residual_parameters", lambda weight, group, sequence_parallel: (weight,), "mixtral", "tp2, sequence parallel"),
    "an expert's bias learns on one tensor rank": ("hexareme.parallel.experts.copy_to_tensor_axis", unreduced, "biases", "tp2"),
    "experts are reduced over the data group":
        (f"{HERE}.placed_parameters", without_experts, "mixtral", "ep2"),
    "capacity of the micro-batch": (f"{ROUTER}.kept_choices", of_the_micro_batch, "capacity", "tp2"),
    "capacity in order of rank": (f"{ROUTER}.kept_choices", in_order_of_rank, "capacity", "cp2 ring"),
    "the load of a part of the sequence": ("hexareme.core.model.balance.all_reduce", unreduced, "mixtral", "cp2 ring"),
    "an auxiliary loss of another scale": (f"{HERE}.set_auxiliary_scale", lambda model, scale: None, "mixtral", "ep2"),
    "statistics that count recomputation": (f"{ROUTER}.recomputing", lambda: False, "mixtral", "recompute"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_must_be_seen(mutation: str, wanted: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail: each of these is off by more than the tolerance, without any rank failing."""
    target, replacement, name, layout = MUTATIONS[mutation]
    monkeypatch.setattr(target, replacement)
    with pytest.raises(AssertionError) as caught:
        compare(name, LAYOUTS.get(layout) or Layout(recompute="full"), wanted)
    assert not isinstance(caught.value, RankError), caught.value
