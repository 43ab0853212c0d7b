"""Small models for tests, and the way between our parameter names and Hugging Face's."""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from hexareme.conf.schema import Activation, ModelConfig, Normalization, Positions, RopeScaling
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.core.model.transformer import Transformer
from hexareme.parallel.context import LayerGroups
from hexareme.parallel.partition import ShardSpec
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ..ranks import world

GPT2 = ModelConfig(vocab_size=257, sequence_length=48, num_layers=2, hidden_size=64, ffn_hidden_size=160, num_heads=4, num_kv_heads=4,
                   initializer_std=0.1)
LLAMA = replace(GPT2, positions=Positions.rope, normalization=Normalization.rmsnorm, activation=Activation.swiglu, bias=False,
                tie_embeddings=False, num_kv_heads=2)
LLAMA3 = replace(LLAMA, rope_theta=100.0, rope_scaling=RopeScaling.llama3, rope_scaling_factor=8.0, rope_original_sequence_length=32)
LINEAR = replace(LLAMA, rope_scaling=RopeScaling.linear, rope_scaling_factor=4.0, tie_embeddings=True)


def build(config: ModelConfig, *, seed: int = 3, recompute: str = "none", group: dist.ProcessGroup | None = None) -> Transformer:
    """A model of ours over the world (a rank's own world of one in most tests)."""
    return build_model(config, seed=seed, groups=LayerGroups.of_tensor_axis(group or world()), device="cpu", recompute=recompute)


def batch(config: ModelConfig, *, samples: int = 3, length: int = 0, documents: Tensor | None = None, step: int = 5) -> ModelInput:
    """Random tokens, the same at every call."""
    S = length or config.sequence_length
    tokens = torch.randint(config.vocab_size, (samples, S), generator=torch.Generator().manual_seed(samples))
    positions = torch.arange(S).expand(samples, S)
    return ModelInput(tokens, positions, documents, torch.arange(samples) + 100, torch.tensor(step))


def loss_and_gradients(model: Transformer, inputs: ModelInput) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of predicting the next token (the last predicts the first), and every gradient."""
    B, S = inputs.tokens_BS.shape
    loss = LossModel(model)(inputs, inputs.tokens_BS.roll(-1, 1), torch.ones(B, S)) / (B * S)
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: gradient(parameter).clone() for name, parameter in model.named_parameters()}


def gradient(tensor: Tensor) -> Tensor:
    """The gradient, which must be there."""
    assert tensor.grad is not None
    return tensor.grad


def hugging_face(config: ModelConfig) -> Any:
    """Hugging Face's model of the same sizes, randomly initialised."""
    torch.manual_seed(1)
    shared: dict[str, Any] = {"vocab_size": config.vocab_size, "initializer_range": 0.1, "tie_word_embeddings": config.tie_embeddings,
              "attn_implementation": "eager"}
    if config.positions == Positions.learned:
        return GPT2LMHeadModel(GPT2Config(
            n_positions=config.sequence_length, n_embd=config.hidden_size, n_layer=config.num_layers, n_head=config.num_heads,
            n_inner=config.ffn_hidden_size, activation_function="gelu_new", layer_norm_epsilon=config.norm_epsilon,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **shared)).eval()
    rope: dict[str, Any] = {
        "rope_type": {"none": "default"}.get(config.rope_scaling, str(config.rope_scaling)), "rope_theta": config.rope_theta,
        "factor": config.rope_scaling_factor, "low_freq_factor": config.rope_low_frequency_factor,
        "high_freq_factor": config.rope_high_frequency_factor,
        "original_max_position_embeddings": config.rope_original_sequence_length}
    wanted = {"none": 2, "linear": 3, "llama3": 6}[config.rope_scaling]
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=config.hidden_size, intermediate_size=config.ffn_hidden_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, max_position_embeddings=config.sequence_length,
        rms_norm_eps=config.norm_epsilon, rope_parameters=dict(list(rope.items())[:wanted]), **shared)).eval()


def to_hugging_face(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names and in its layout."""
    return (_to_gpt2 if config.positions == Positions.learned else _to_llama)(config, ours)


def _to_gpt2(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {"transformer.wte.weight": ours["embedding.tokens.weight"], "transformer.wpe.weight": ours["embedding.positions.weight"],
              "transformer.ln_f.weight": ours["final_norm.weight"], "transformer.ln_f.bias": ours["final_norm.bias"]}
    parts = {"attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj", "mlp_norm": "ln_2",
             "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for i in range(config.num_layers):
        for our, their in parts.items():
            weight = ours[f"blocks.{i}.{our}.weight"]
            result[f"transformer.h.{i}.{their}.weight"] = weight.T if weight.dim() == 2 else weight
            result[f"transformer.h.{i}.{their}.bias"] = ours[f"blocks.{i}.{our}.bias"]
    return result


def _to_llama(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {"model.embed_tokens.weight": ours["embedding.tokens.weight"], "model.norm.weight": ours["final_norm.weight"]}
    if not config.tie_embeddings:
        result["lm_head.weight"] = ours["head.weight"]
    D = config.hidden_size // config.num_heads
    sizes = (config.num_heads * D, config.num_kv_heads * D, config.num_kv_heads * D)
    for i in range(config.num_layers):
        our, their = f"blocks.{i}", f"model.layers.{i}"
        for name, part in zip("qkv", ours[f"{our}.attention.qkv.weight"].split(sizes), strict=True):
            result[f"{their}.self_attn.{name}_proj.weight"] = part
        gate, up = ours[f"{our}.mlp.up.weight"].chunk(2)
        result |= {f"{their}.mlp.gate_proj.weight": gate, f"{their}.mlp.up_proj.weight": up,
                   f"{their}.self_attn.o_proj.weight": ours[f"{our}.attention.output.weight"],
                   f"{their}.mlp.down_proj.weight": ours[f"{our}.mlp.down.weight"],
                   f"{their}.input_layernorm.weight": ours[f"{our}.attention_norm.weight"],
                   f"{their}.post_attention_layernorm.weight": ours[f"{our}.mlp_norm.weight"]}
    return result


def gather(shards: list[tuple[dict[str, Tensor], dict[str, ShardSpec]]]) -> dict[str, Tensor]:
    """Global tensors from every rank's (local tensors, specs); equal copies must be equal, and padding zero."""
    whole: dict[str, Tensor] = {}
    for local, specs in shards:
        for name, spec in specs.items():
            result = whole.setdefault(name, torch.full(spec.shape, torch.nan))
            rest = local[name].clone()
            assert tuple(rest.shape) == spec.local_shape
            for piece in spec.pieces:
                target = result.narrow(spec.dim, piece.start, piece.length)
                value = rest.narrow(spec.dim, piece.local, piece.length)
                assert bool(target.isnan().all()) or torch.equal(target, value), f"{name}: copies differ"
                target.copy_(value)
                value.zero_()
            assert not rest.any(), f"{name}: padding is not zero"
    assert not any(tensor.isnan().any() for tensor in whole.values())
    return whole
