"""FLOPs and parameters counted from sizes, against torch's counter on the real model and published numbers."""

from dataclasses import replace

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.conf.schema import ModelConfig
from hexareme.core.flops import active_parameter_count, forward_flops, model_flops_per_token, parameter_count, peak_flops, step_flops
from torch.utils.flop_counter import FlopCounterMode

from ..ranks import run_single
from .reference import GPT2, LLAMA, batch, build, loss_and_gradients

CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "tied": replace(LLAMA, tie_embeddings=True, bias=True, num_kv_heads=1),
           "experts": replace(LLAMA, num_layers=3, num_experts=5, dense_layers=1, expert_interval=2, expert_ffn_hidden_size=24, bias=True,
                              num_shared_experts=2)}


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_backward_equal_torchs_counter(name: str) -> None:
    config = CONFIGS[name]

    def rank(_: int) -> tuple[int, int]:
        # torch's counter does not know the CPU's fused attention; explicit attention is made of products it knows
        model, inputs = build(replace(config, attention_dropout=1e-6)), batch(config)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model(inputs)
        with FlopCounterMode(display=False) as both:
            loss_and_gradients(model, inputs)
        return forward.get_total_flops(), both.get_total_flops()

    counted = sum(forward_flops(config, samples=3, sequence_length=48, causal=False).values())
    assert run_single(rank) == (counted, 3 * counted)


def test_causal_attention_counts_the_pairs_it_sees() -> None:
    pairs = sum(1 for query in range(48) for key in range(48) if key <= query)
    counted = forward_flops(GPT2, samples=2, sequence_length=48)["attention.scores"]
    assert counted == GPT2.num_layers * 2 * pairs * 2 * 2 * GPT2.hidden_size
    whole = forward_flops(GPT2, samples=2, sequence_length=48, causal=False)
    assert {k: v for k, v in whole.items() if k != "attention.scores"} == {
        k: v for k, v in forward_flops(GPT2, samples=2, sequence_length=48).items() if k != "attention.scores"}


def test_per_token_is_near_six_times_the_parameters() -> None:
    config = replace(LLAMA, hidden_size=4096, ffn_hidden_size=14336, num_heads=32, num_kv_heads=8, num_layers=32, vocab_size=128256,
                     sequence_length=128)
    counts = parameter_count(config)
    in_products = sum(counts.values()) - counts["embedding.tokens"] - counts["norms"]
    assert model_flops_per_token(config) == pytest.approx(6 * in_products, rel=0.01)  # Kaplan et al. 2020: 6 N, here with the head
    assert sum(step_flops(config, samples=4).values()) == pytest.approx(4 * 128 * model_flops_per_token(config))


@pytest.mark.parametrize("config", [*CONFIGS.values(), replace(GPT2, tie_embeddings=False)])
def test_parameters_equal_the_built_model(config: ModelConfig) -> None:
    built = run_single(lambda _: sum(p.numel() for p in build(config).parameters()))
    assert built == sum(parameter_count(config).values())


def test_parameters_of_published_models() -> None:
    gpt2 = replace(GPT2, hidden_size=768, ffn_hidden_size=3072, num_heads=12, num_kv_heads=12, num_layers=12, vocab_size=50257,
                   sequence_length=1024)
    assert sum(parameter_count(gpt2).values()) == 124_439_808  # as Hugging Face counts gpt2
    llama = replace(LLAMA, hidden_size=4096, ffn_hidden_size=14336, num_heads=32, num_kv_heads=8, num_layers=32, vocab_size=128256)
    assert sum(parameter_count(llama).values()) == 8_030_261_248  # as Hugging Face counts Llama 3 8B


def test_parameters_of_mixtral() -> None:
    mixtral = compose("train", ["data.train=corpus", "model=mixtral_8x7b"]).model
    assert sum(parameter_count(mixtral).values()) == 46_702_792_704  # the safetensors header of mistralai/Mixtral-8x7B-v0.1
    assert active_parameter_count(mixtral) == pytest.approx(12.9e9, rel=2e-3)  # "12.9B" (Jiang et al. 2024, table 2: 13B)


def test_peaks() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", "fp16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("AMD Instinct MI300X", "bf16") == 1307.4e12
    assert peak_flops("cpu", "fp32") is None
