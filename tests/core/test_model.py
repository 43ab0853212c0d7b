"""The model on one rank: against Hugging Face, its masks, its precision, its recomputation."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hexareme.conf.schema import Activation, ModelConfig
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model, compile_blocks
from hexareme.core.model.input import ModelInput
from hexareme.parallel.context import LayerGroups

from ..ranks import run_single, world
from .reference import GPT2, LINEAR, LLAMA, LLAMA3, batch, build, gradient, hugging_face, loss_and_gradients, to_hugging_face

CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "llama3_rope": LLAMA3, "linear_rope_tied": LINEAR, "gpt2_odd": replace(GPT2, vocab_size=131)}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 2e-5) -> None:
    difference = (ours - theirs).abs().max()
    assert difference <= tolerance * max(1.0, float(theirs.abs().max())), difference


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_equal_hugging_face(name: str) -> None:
    def rank(_: int) -> None:
        config, inputs = CONFIGS[name], batch(CONFIGS[name])
        ours, theirs = build(config), hugging_face(config)
        _load_from_hugging_face(config, ours, theirs)
        _compare(config, ours, theirs, inputs)
        other = build(config, seed=9)  # and the other way
        missing, unexpected = theirs.load_state_dict(to_hugging_face(config, other.state_dict()), strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}  # tied
        _compare(config, other, theirs, inputs)

    run_single(rank)


def _load_from_hugging_face(config: ModelConfig, ours: Any, theirs: Any) -> None:
    """Each of our elements names a place; where to_hugging_face puts it, Hugging Face's value is found."""
    state, places = {k: v.detach() for k, v in ours.named_parameters()}, {}
    offset = 0
    for key, value in state.items():
        places[key] = torch.arange(offset, offset + value.numel(), dtype=torch.float64).view(value.shape)
        offset += value.numel()
    flat = torch.full((offset,), torch.nan)
    values = theirs.state_dict()
    for key, place in to_hugging_face(config, places).items():
        flat[place.long().reshape(-1)] = values[key].reshape(-1)
    assert not flat.isnan().any()
    for key, value in state.items():
        value.copy_(flat[places[key].long()])


def _compare(config: ModelConfig, ours: Any, theirs: Any, inputs: ModelInput) -> None:
    with torch.no_grad():
        close(ours(inputs), theirs(inputs.tokens_BS).logits)
    theirs.zero_grad()
    logits = theirs(inputs.tokens_BS).logits
    loss = F.cross_entropy(logits.flatten(0, 1), inputs.tokens_BS.roll(-1, 1).flatten())
    loss.backward()
    our_loss, our_gradients = loss_and_gradients(ours, inputs)
    close(our_loss, loss.detach(), 1e-6)
    for key, ours_here in to_hugging_face(config, our_gradients).items():
        close(ours_here, theirs.get_parameter(key).grad, 5e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_document_sees_only_itself(name: str) -> None:
    config = CONFIGS[name]
    lengths = (7, 1, 20)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(2, -1)
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)

    def rank(_: int) -> None:
        model = build(config)
        inputs = batch(config, samples=2, length=28)
        packed = model(inputs._replace(documents_BS=documents, positions_BS=positions))
        start = 0
        for length in lengths:
            part = inputs.tokens_BS[:, start:start + length]
            alone = model(inputs._replace(tokens_BS=part, positions_BS=torch.arange(length).expand(2, -1)))
            close(packed[:, start:start + length], alone, 1e-5)
            start += length

    run_single(rank)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_explicit_attention_equals_the_fused_one(kv_heads: int) -> None:
    config = replace(LLAMA, num_kv_heads=kv_heads, attention_dropout=1e-6)  # rounds to no dropout at all, but selects the explicit path
    documents = torch.arange(48).div(20, rounding_mode="floor").expand(3, -1)

    def rank(_: int) -> None:
        model = build(config)
        for inputs in (batch(config), batch(config, documents=documents)):
            close(model.train()(inputs), model.eval()(inputs), 1e-5)

    run_single(rank)


@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_recomputation_changes_no_bit(attention_dropout: float) -> None:
    documents = torch.arange(48).div(20, rounding_mode="floor").expand(3, -1)

    def rank(_: int) -> None:
        for config in (replace(GPT2, dropout=0.3, attention_dropout=attention_dropout),
                       replace(LLAMA, dropout=0.3, attention_dropout=attention_dropout)):
            for inputs in (batch(config), batch(config, documents=documents)):
                loss, wanted = loss_and_gradients(build(config), inputs)
                for policy in ("selective", "full"):
                    again, gradients = loss_and_gradients(build(config, recompute=policy), inputs)
                    assert torch.equal(loss, again)
                    assert all(torch.equal(gradients[k], wanted[k]) for k in wanted)

    run_single(rank)


def test_recomputation_keeps_less() -> None:
    def rank(_: int) -> list[int]:
        kept = []
        for policy in ("none", "selective", "full"):
            model, inputs = build(GPT2, recompute=policy), batch(GPT2)
            sizes: dict[int, int] = {}

            def pack(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                model.blocks["0"].requires_grad_(True)
                model(inputs)
            kept.append(sum(sizes.values()))
        return kept

    none, selective, full = run_single(rank)
    assert none > selective >= full  # what selective keeps lies in its own cache, not in autograd's


def test_dropout_depends_on_step_and_seed_only_in_training() -> None:
    config = replace(GPT2, dropout=0.1)

    def rank(_: int) -> None:
        model = build(config)
        inputs = batch(config)
        first = model(inputs)
        assert torch.equal(first, model(inputs))
        assert not torch.equal(first, model(inputs._replace(step=torch.tensor(6))))
        assert not torch.equal(first, model(inputs._replace(samples_B=inputs.samples_B + 1)))
        one = model(ModelInput(inputs.tokens_BS[1:2], inputs.positions_BS[1:2], None, inputs.samples_B[1:2], inputs.step))
        close(first[1:2], one, 1e-6)  # a sample's mask is its own, whatever lies beside it
        state = torch.random.get_rng_state()
        model.eval()
        assert torch.equal(model(inputs), model(inputs._replace(step=torch.tensor(6))))
        assert torch.equal(state, torch.random.get_rng_state())

    run_single(rank)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_keeps_weights_gradients_and_loss_in_fp32(precision: str) -> None:
    def rank(_: int) -> None:
        model, inputs = build(LLAMA), batch(LLAMA)
        targets, mask = inputs.tokens_BS.roll(-1, 1), torch.ones(3, 48)
        exact = LossModel(model)(inputs, targets, mask)
        loss = LossModel(model, precision=precision)(inputs, targets, mask)
        assert loss.dtype == torch.float32
        assert 0 < (loss - exact).abs() / exact < 5e-3
        loss.backward()
        assert all(gradient(p).dtype == p.dtype == torch.float32 and gradient(p).isfinite().all() for p in model.parameters())

    run_single(rank)


def test_masked_tokens_count_nothing() -> None:
    def rank(_: int) -> None:
        model, inputs = build(GPT2), batch(GPT2)
        targets, mask = inputs.tokens_BS.roll(-1, 1), (torch.arange(3 * 48).view(3, 48) % 3 > 0).float()
        loss = LossModel(model)(inputs, targets, mask)
        wanted = F.cross_entropy(model(inputs).flatten(0, 1), torch.where(mask > 0, targets, -100).flatten(), reduction="sum")
        close(loss, wanted, 1e-6)
        other = torch.where(mask > 0, targets, 0)
        assert torch.equal(loss, LossModel(model)(inputs, other, mask))

    run_single(rank)


def test_initial_weights() -> None:
    config = replace(GPT2, num_layers=8, initializer_std=0.02)

    def rank(_: int) -> None:
        model = build(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            elif "norm" in name:
                assert (parameter == 1).all()
            else:
                wanted = 0.005 if name.endswith(("attention.output.weight", "mlp.down.weight")) else 0.02
                assert abs(parameter.std() / wanted - 1) < 0.06, name
        names = [f"blocks.{i}.mlp.up.weight" for i in range(8)]
        weights, same, other = ([m.get_parameter(name) for name in names] for m in (model, build(config), build(config, seed=4)))
        assert not any(torch.equal(a, b) for a in weights for b in (*weights, *other) if a is not b)
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))

    run_single(rank)


def test_building_on_meta_takes_no_memory() -> None:
    config = replace(LLAMA, hidden_size=8192, ffn_hidden_size=28672, num_heads=64, num_kv_heads=8, num_layers=80, vocab_size=128256)

    def rank(_: int) -> int:
        model = build_model(config, seed=0, groups=LayerGroups.of_tensor_axis(world()), device="meta")
        assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        return sum(p.numel() for p in model.parameters())

    assert run_single(rank) == 70_553_706_496  # Llama 3 70B, as Meta counts it


@pytest.mark.parametrize(("change", "key"), [
    ({"num_heads": 5, "num_kv_heads": 5}, "model.num_heads=5"), ({"num_kv_heads": 3}, "model.num_kv_heads=3"),
    ({"num_heads": 64, "num_kv_heads": 64, "hidden_size": 64}, "model.positions=rope")])
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], key: str) -> None:
    def rank(_: int) -> str:
        with pytest.raises(ValueError, match="try|choose") as error:
            build(replace(LLAMA, **change))
        return str(error.value)

    assert key in run_single(rank)


def test_more_tokens_than_the_context_are_refused() -> None:
    def rank(_: int) -> None:
        with pytest.raises(ValueError, match="sequence_length=48"):
            build(LLAMA)(batch(LLAMA, length=49))

    run_single(rank)


@pytest.mark.nightly
@pytest.mark.parametrize("config", [replace(GPT2, dropout=0.1), replace(LLAMA, dropout=0.1, activation=Activation.gelu)])
def test_compiled_blocks_compute_the_same(config: ModelConfig) -> None:
    def rank(_: int) -> None:
        inputs = batch(config)
        loss, wanted = loss_and_gradients(build(config), inputs)
        model = build(config)
        compile_blocks(model)
        again, gradients = loss_and_gradients(model, inputs)
        close(again, loss, 1e-6)
        assert list(gradients) == list(wanted)
        for key in wanted:
            close(gradients[key], wanted[key], 1e-5)

    run_single(rank, timeout=280)
