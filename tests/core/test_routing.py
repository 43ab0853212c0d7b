"""What surrounds a router: which blocks have one, statistics, bias, tape, evaluation, precision, schedules that split the backward pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.conf.schema import ModelConfig, RouterBalance
from hexareme.core.expert_rules import expert_layers, expert_layout_rules, expert_rules, has_experts
from hexareme.core.model.block import Block
from hexareme.core.model.build import build_model
from hexareme.core.model.cache import KeyValueCache
from hexareme.core.model.routing import RoutingStatistics, collect_routing, routing_metrics, set_routing_tape, update_router_bias
from hexareme.core.model.routing_tape import RoutingTape
from hexareme.parallel.context import LayerGroups
from hexareme.parallel.partition_module import placed_buffers, placed_parameters
from hexareme.parallel.stages import Stage
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from ..ranks import run_ranks, run_single, world
from .reference import LLAMA, batch, build, loss_and_gradients

CONFIG = replace(LLAMA, num_kv_heads=4, sequence_length=16, hidden_size=32, ffn_hidden_size=24, num_experts=4)
BIASED = replace(CONFIG, router_balance=RouterBalance.bias)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 5))
def test_blocks_with_experts(layers: int, dense: int, interval: int) -> None:
    config = replace(CONFIG, num_layers=layers, dense_layers=dense, expert_interval=interval)
    assert expert_layers(config) == list(range(dense + interval - 1, layers, interval))
    assert not any(has_experts(replace(config, num_experts=0), layer) for layer in range(layers))


@pytest.mark.parametrize(("overrides", "ranks", "key", "message"), [
    ("parallel.ep=2 model.num_experts=0", 2, "parallel.ep", "model.num_experts=0"),
    ("parallel.ep=3", 3, "parallel.ep", "does not divide model.num_experts=4"),
    ("model.experts_per_token=5", 1, "model.experts_per_token", "more than model.num_experts=4"),
    ("model.experts_per_token=1", 1, "model.router_normalize", "every gate 1"),
    ("model.dense_layers=2", 1, "model.dense_layers", "leave no block with experts"),
    ("parallel.tp=4 model.expert_ffn_hidden_size=6", 4, "parallel.tp", "model.expert_ffn_hidden_size=6"),
    ("train.precision=fp16", 1, "train.precision", "router in fp16"),
    ("model.router_balance=bias model.router_bias_rate=0", 1, "model.router_bias_rate", "never moves")])
def test_what_does_not_fit_is_named(overrides: str, ranks: int, key: str, message: str) -> None:
    config = compose("train", ["experiment=debug", "data.train=none", "model=mixtral_debug", *overrides.split()])
    [problem] = [*expert_layout_rules(config), *expert_rules(config)]
    assert problem.key == key and message in problem.message and problem.do


def test_what_fits_has_no_problem() -> None:
    config = compose("train", ["experiment=debug", "data.train=none", "model=mixtral_debug", "parallel.ep=4", "parallel.tp=2"])
    assert not [*expert_layout_rules(config), *expert_rules(config)]


def test_statistics_are_taken_once_and_start_again() -> None:
    def rank(_: int) -> None:
        config = replace(CONFIG, num_layers=3, dense_layers=1, expert_capacity_factor=0.5)
        model, inputs = build(config), batch(config)
        model(inputs)
        model.eval()
        model(inputs)  # is not counted
        statistics = collect_routing(model, config)
        assert statistics is not None
        assert statistics.loads_LE.sum(dim=1).tolist() == [0, 96, 96]  # 3 samples x 16 tokens x 2 choices
        metrics = routing_metrics(statistics, samples=3)
        assert 0.5 <= metrics["dropped_fraction"] < 1  # 4 experts take 4 of 32 choices each
        assert metrics["balance_loss"] >= 1.0 and metrics["z_loss"] > 0 and metrics["expert_load_max"] >= 1
        again = collect_routing(model, config)
        assert again is not None and not again.rows_L.any()
        assert collect_routing(model, replace(config, num_experts=0)) is None

    run_single(rank)


def test_metrics_of_known_loads() -> None:
    rows = torch.zeros(3, 7, dtype=torch.float64)
    rows[1] = torch.tensor([10, 30, 20, 20, 8, 6.0, 2.0])
    rows[2] = torch.tensor([20, 20, 20, 20, 0, 4.0, 0.0])
    assert routing_metrics(RoutingStatistics(rows), samples=5) == {
        "expert_load_max": 1.5, "dropped_fraction": 8 / 160, "balance_loss": 1.0, "z_loss": 0.2}


def test_the_bias_moves_against_the_load_and_evens_it() -> None:
    def rank(_: int) -> None:
        config = replace(BIASED, num_layers=1, initializer_std=0.3)
        model, inputs = build(config), batch(config, samples=8)
        [(name, bias)] = placed_buffers(model).items()
        assert name == "blocks.0.mlp.router.bias" and not bias.any()
        bias.copy_(torch.tensor([0.3, 0.0, 0.0, -0.3]))
        uneven = []
        for _ in range(60):
            model(inputs)
            statistics = collect_routing(model, config)
            assert statistics is not None
            uneven.append(routing_metrics(statistics, samples=8)["expert_load_max"])
            update_router_bias(model, statistics.loads_LE, rate=0.01)
        assert uneven[0] > 1.5 and uneven[-1] < 1.1, uneven

    run_single(rank)


def test_a_tape_replays_what_was_recorded_and_counts_what_differs() -> None:
    def rank(_: int) -> None:
        model, other, inputs = build(CONFIG), build(CONFIG, seed=4), batch(CONFIG)
        tape = RoutingTape()
        set_routing_tape(model, tape)
        logits = model(inputs)
        replayed = RoutingTape.replaying([tape])
        set_routing_tape(model, replayed)
        assert torch.equal(model(inputs), logits)
        assert (replayed.compared, replayed.differing, replayed.disagreeing) == (2 * 3 * 16 * 2, 0, 0)
        set_routing_tape(other, replayed)
        free = RoutingTape()
        loss_and_gradients(other, inputs)
        assert replayed.disagreeing > 100  # another model's choices
        set_routing_tape(other, free)
        other(inputs)
        assert not torch.equal(free.choices[0, 5, 100], tape.choices[0, 5, 100])
        set_routing_tape(other, replayed)
        with pytest.raises(LookupError, match="step, sample"):
            other(inputs._replace(step=torch.tensor(6)))
        set_routing_tape(other, None)
        other(inputs._replace(step=torch.tensor(6)))

    run_single(rank)


def test_tapes_of_the_parts_of_a_window_join() -> None:
    first, second = RoutingTape(), RoutingTape()
    first.choices[0, 1, 2] = torch.tensor([[3], [-1], [-1]])
    second.choices[0, 1, 2] = torch.tensor([[-1], [0], [2]])
    assert RoutingTape.replaying([first, second]).choices[0, 1, 2].tolist() == [[3], [0], [2]]


def test_evaluation_drops_nothing_and_a_cache_gives_the_same_logits() -> None:
    def rank(_: int) -> None:
        config = replace(CONFIG, expert_capacity_factor=0.25)
        model, inputs = build(config).eval(), batch(config)
        with torch.no_grad():
            whole, free = model(inputs), build(CONFIG).eval()(inputs)
            assert torch.equal(whole, free)
            assert not torch.equal(model.train()(inputs), whole)
            model.eval()
            cache, pieces = KeyValueCache(16), []
            for start, stop in ((0, 5), (5, 6), (6, 16)):
                part = inputs._replace(tokens_BS=inputs.tokens_BS[:, start:stop], positions_BS=inputs.positions_BS[:, start:stop])
                pieces.append(model(part, cache))
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-5, atol=1e-5)

    run_single(rank)


def test_the_router_stays_in_fp32_under_autocast() -> None:
    def rank(_: int) -> None:
        block = build(CONFIG).blocks["0"]
        assert isinstance(block, Block)
        x, shared = torch.randn(3, 16, 32), build(CONFIG).shared(batch(CONFIG))
        wanted = block.mlp.router(x, shared)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            routing, y = block.mlp.router(x, shared), block.mlp(x, shared)
        assert torch.equal(routing.gates_BSk, wanted.gates_BSk) and torch.equal(routing.experts_BSk, wanted.experts_BSk)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), block.mlp(x, shared), rtol=0.1, atol=0.05)

    run_single(rank)


def test_every_layout_draws_the_same_experts_and_residual_outputs_are_scaled() -> None:
    config = replace(CONFIG, num_shared_experts=1, num_layers=2)

    def rank(_: int) -> dict[str, Any]:
        alone = torch.distributed.new_group([torch.distributed.get_rank()], use_local_synchronization=True)
        found = {}
        for name, groups in (("tp", LayerGroups(world(), alone, alone)), ("ep", LayerGroups(alone, alone, world()))):
            model = build_model(config, seed=3, groups=groups, device="cpu")
            found[name] = {each.name: (each.parameter.detach(), each.shard, each.copy, each.expert) for each in placed_parameters(model)}
        return found

    [whole] = run_ranks(rank, 1)
    ranks = run_ranks(rank, 2)
    for layout in ("tp", "ep"):
        for held in ranks:
            for name, (value, shard, _, expert) in held[layout].items():
                assert expert == (".experts." in name)
                for piece in shard.pieces:
                    expected = whole["tp"][name][0].narrow(shard.dim, piece.start, piece.length)
                    assert torch.equal(value.narrow(shard.dim, piece.local, piece.length), expected), name
    std = {name: float(value.std()) for name, (value, *_) in whole["tp"].items()}
    for part in ("experts", "shared"):
        assert std[f"blocks.0.mlp.{part}.down.weight"] == pytest.approx(std[f"blocks.0.mlp.{part}.up.weight"] / 2, rel=0.1)


def split_backward(config: ModelConfig, sequence_parallel: bool) -> None:
    """A later stage of two blocks, its backward pass whole and split."""
    rank = torch.distributed.get_rank()
    alone = torch.distributed.new_group([rank], use_local_synchronization=True)
    groups = LayerGroups(world(), alone, alone, sequence_parallel)
    if not sequence_parallel:
        groups = LayerGroups(alone, alone, world())
    stage: nn.Module = build_model(config, seed=3, groups=groups, device="cpu", stage=Stage(1, range(2), first=False, last=False))
    inputs = batch(config)
    generator = torch.Generator().manual_seed(rank)
    hidden = torch.randn(3, 8 if sequence_parallel else 16, 32, generator=generator).requires_grad_()
    ending = torch.randn(hidden.shape, generator=generator)
    parameters = list(stage.parameters())
    wanted = torch.autograd.grad(stage(inputs, None, hidden), (hidden, *parameters), ending)
    output = stage(inputs, None, hidden)
    [dx], param_groups = stage_backward_input([output], [ending], [hidden], iter(parameters))
    stage_backward_weight(iter(parameters), param_groups)
    for value, expected in zip((dx, *(parameter.grad for parameter in parameters)), wanted, strict=True):
        assert value is not None
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_schedules_that_split_the_backward_pass_give_the_same_gradients(sequence_parallel: bool) -> None:
    config = replace(CONFIG, bias=True, num_shared_experts=1, router_z_coefficient=0.3)
    run_ranks(lambda _: split_backward(config, sequence_parallel), 2)
