"""One process: experts against Hugging Face's Mixtral and DeepSeek-V3, the router's rules against plain loops, the tape, the bias."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hexareme.conf.schema import ModelConfig, RouterBalance, RouterScore
from hexareme.core.model.balance import attach_loss, balance_loss, choices_of_experts, z_loss
from hexareme.core.model.capacity import expert_capacity, kept_choices
from hexareme.core.model.experts import MixtureOfExperts
from hexareme.core.model.input import Shared
from hexareme.core.model.routing import (
    collect_routing,
    routing_metrics,
    set_auxiliary_scale,
    set_routing_tape,
)
from hexareme.core.model.routing_tape import RoutingTape
from hexareme.parallel.context import LayerGroups
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DeepseekV3Config, MixtralConfig, MixtralForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from ..ranks import run_single, world
from .reference import LLAMA, batch, build, gradient, loss_and_gradients, to_hugging_face

MIXTRAL = replace(LLAMA, num_experts=4, router_balance=RouterBalance.none)
DEEPSEEK = replace(LLAMA, num_experts=8, experts_per_token=3, num_shared_experts=2, expert_ffn_hidden_size=24,
                   router_score=RouterScore.sigmoid, router_balance=RouterBalance.bias)


def to_mixtral(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names of Hugging Face's Mixtral."""
    E, H = config.num_experts, config.hidden_size
    dense = {f"blocks.{i}.mlp.{name}.weight": torch.zeros(2, 1) for i in range(config.num_layers) for name in ("up", "down")}
    theirs = {name: value for name, value in to_hugging_face(config, ours | dense).items() if ".mlp." not in name}
    for i in range(config.num_layers):
        our, their = f"blocks.{i}.mlp", f"model.layers.{i}.mlp"
        theirs |= {f"{their}.gate.weight": ours[f"{our}.router.weight"],
                   f"{their}.experts.gate_up_proj": ours[f"{our}.experts.up.weight"].view(E, -1, H),
                   f"{their}.experts.down_proj": ours[f"{our}.experts.down.weight"].view(E, -1, H).transpose(1, 2)}
    return theirs


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_logits_and_gradients_equal_hugging_faces_mixtral(recompute: str) -> None:
    def rank(_: int) -> None:
        torch.manual_seed(1)
        theirs = MixtralForCausalLM(MixtralConfig(
            vocab_size=LLAMA.vocab_size, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=48, rms_norm_eps=1e-5, num_local_experts=4, num_experts_per_tok=2,
            tie_word_embeddings=False, attn_implementation="eager", rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
        ours, inputs = build(MIXTRAL, recompute=recompute), batch(MIXTRAL)
        weights = to_mixtral(MIXTRAL, {name: parameter.detach() for name, parameter in ours.named_parameters()})
        assert weights.keys() == theirs.state_dict().keys()
        theirs.load_state_dict(weights)
        logits = theirs(inputs.tokens_BS).logits
        torch.testing.assert_close(ours(inputs), logits, rtol=2e-5, atol=2e-5)
        loss, gradients = loss_and_gradients(ours, inputs)
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.tokens_BS.roll(-1, 1).flatten())
        wanted.backward()
        torch.testing.assert_close(loss, wanted.detach(), rtol=2e-6, atol=0)
        named = dict(theirs.named_parameters())
        for name, value in to_mixtral(MIXTRAL, gradients).items():
            assert (value - gradient(named[name])).norm() <= 1e-5 * gradient(named[name]).norm(), name

    run_single(rank)


def shared_of(B: int, S: int) -> Shared:
    places = torch.arange(S)
    return Shared(None, None, torch.arange(B), torch.tensor(0), places, places, None, None)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_mixture_equals_hugging_faces_deepseek_with_shared_experts_and_a_bias(normalize: bool) -> None:
    def rank(_: int) -> None:
        config = replace(DEEPSEEK, router_normalize=normalize)
        torch.manual_seed(0)
        ours = MixtureOfExperts(config, layer=0, groups=LayerGroups.of_tensor_axis(world()))
        for parameter in ours.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        assert ours.router.bias is not None and ours.shared is not None
        ours.router.bias.normal_(std=0.3)
        theirs = DeepseekV3MoE(DeepseekV3Config(
            hidden_size=64, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, n_group=1,
            topk_group=1, norm_topk_prob=normalize, routed_scaling_factor=1.0, hidden_act="silu"))
        gate, value = ours.shared.up.weight.detach().chunk(2)
        theirs.load_state_dict({
            "gate.weight": ours.router.weight.detach(), "gate.e_score_correction_bias": ours.router.bias,
            "experts.gate_up_proj": ours.experts.up.weight.detach().view(8, 48, 64),
            "experts.down_proj": ours.experts.down.weight.detach().view(8, 24, 64).transpose(1, 2),
            "shared_experts.gate_proj.weight": gate, "shared_experts.up_proj.weight": value,
            "shared_experts.down_proj.weight": ours.shared.down.weight.detach()})
        x = torch.randn(2, 16, 64, requires_grad=True)
        again = x.detach().clone().requires_grad_()
        y, wanted = ours(x, shared_of(2, 16)), theirs(again)
        torch.testing.assert_close(y, wanted, rtol=2e-5, atol=2e-5)
        y.square().sum().backward()
        wanted.square().sum().backward()
        torch.testing.assert_close(x.grad, again.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient(ours.router.weight), gradient(theirs.gate.weight), rtol=1e-4, atol=1e-4)

    run_single(rank)


def kept_by_a_loop(experts: list[list[list[int]]], capacity: int) -> list[list[list[bool]]]:
    kept = [[[False] * len(token) for token in sample] for sample in experts]
    for b, sample in enumerate(experts):
        filled: Counter[int] = Counter()
        for choice in range(len(sample[0])):
            for place, token in enumerate(sample):
                kept[b][place][choice] = filled[token[choice]] < capacity
                filled[token[choice]] += 1
    return kept


def test_capacity_equals_a_plain_loop() -> None:
    @settings(deadline=None, max_examples=100)
    @given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 6), st.randoms(use_true_random=False))
    def check(B, S, k, capacity, random) -> None:
        experts = [[random.sample(range(4), k) for _ in range(S)] for _ in range(B)]
        places = random.sample(range(20), S)  # in any order
        in_order = sorted(range(S), key=lambda i: places[i])
        wanted = torch.zeros(B, S, k, dtype=torch.bool)
        wanted[:, in_order] = torch.tensor(kept_by_a_loop([[sample[i] for i in in_order] for sample in experts], capacity))
        found = kept_choices(torch.tensor(experts), torch.tensor(places), capacity=capacity, num_experts=4, context=world())
        assert torch.equal(found, wanted)

    run_single(lambda _: check())
    assert expert_capacity(1.25, tokens=16, choices=2, num_experts=12) == 4  # 3.33 rounded up


def test_the_balance_loss_is_hugging_faces_for_one_sequence_and_one_where_the_load_is_even() -> None:
    def rank(_: int) -> None:
        torch.manual_seed(0)
        logits = torch.randn(3, 10, 4, requires_grad=True)
        scores = logits.softmax(-1)
        chosen = scores.topk(2, dim=-1).indices
        losses = balance_loss(scores, choices_of_experts(chosen, 4), choices=2, context=world())
        for one, loss in zip(logits, losses, strict=True):
            theirs = load_balancing_loss_func((one,), 4, 2)
            assert isinstance(theirs, Tensor)
            torch.testing.assert_close(loss, theirs / 2)  # theirs counts the choices, ours divides by their number
        even = torch.full((1, 4, 4), 0.25)
        assert balance_loss(even, torch.full((1, 4), 2.0), choices=2, context=world()).item() == 1.0
        torch.testing.assert_close(z_loss(logits, context=world()), torch.logsumexp(logits, -1).square().mean(1))

    run_single(rank)


def test_an_attached_loss_enters_the_gradient_as_if_it_were_added() -> None:
    x, again = (torch.arange(3.0).requires_grad_() for _ in range(2))
    y = attach_loss(2 * x, (x**3).sum(), 0.5)
    assert torch.equal(y, 2 * x)
    y.sum().backward()
    ((2 * again).sum() + 0.5 * (again**3).sum()).backward()
    assert torch.equal(gradient(x), gradient(again))


def test_auxiliary_losses_are_part_of_the_objective() -> None:
    """The router's gradient with losses attached, against a finite difference of cross entropy plus losses."""
    config = replace(MIXTRAL, router_balance=RouterBalance.loss, router_balance_coefficient=3.0, router_z_coefficient=0.7, num_layers=1)

    def rank(_: int) -> None:
        torch.set_default_dtype(torch.float64)
        model, inputs = build(config), batch(config)
        B, S = inputs.tokens_BS.shape
        set_auxiliary_scale(model, 1 / B)
        set_routing_tape(model, tape := RoutingTape())
        _, gradients = loss_and_gradients(model, inputs)
        set_routing_tape(model, RoutingTape.replaying([tape]))
        weight = model.blocks["0"].mlp.router.weight
        direction = torch.randn_like(weight)

        def objective(shift: float) -> float:
            with torch.no_grad():
                weight.add_(direction, alpha=shift)
            collect_routing(model, config)
            loss, _ = loss_and_gradients(model, inputs)
            with torch.no_grad():
                weight.sub_(direction, alpha=shift)
            figures = routing_metrics(collect_routing(model, config), samples=B)
            return float(loss) + 3.0 * figures["balance_loss"] + 0.7 * figures["z_loss"]

        slope = (objective(1e-4) - objective(-1e-4)) / 2e-4
        assert float((gradients["blocks.0.mlp.router.weight"] * direction).sum()) == pytest.approx(slope, rel=1e-3)

    run_single(rank)
