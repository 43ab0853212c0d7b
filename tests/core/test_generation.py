"""Generation: the cache changes nothing, sampling follows Hugging Face's rules, every rank agrees."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hexareme.core.generation import generate, generate_batch
from hexareme.core.model.cache import KeyValueCache
from hexareme.core.sampling import Sampling, choose, uniforms
from transformers import TopKLogitsWarper, TopPLogitsWarper

from ..ranks import run_ranks, run_single
from .reference import GPT2, LLAMA3, batch, build, hugging_face, to_hugging_face

CONFIGS = {"gpt2": replace(GPT2, dropout=0.2, attention_dropout=0.2), "llama": LLAMA3}
PROMPT = [5, 17, 200, 31, 8]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_logits_with_a_cache_equal_those_without(name: str, masked: bool) -> None:
    config = CONFIGS[name]
    documents = torch.arange(48).div(20, rounding_mode="floor").expand(3, -1) if masked else None

    def rank(_: int) -> None:
        model, inputs = build(config).eval(), batch(config, documents=documents)
        whole, cache, start = model(inputs), KeyValueCache(48), 0
        for length in (7, 1, 1, 13, 1, 25):  # prompt, single tokens, and several at once
            here = slice(start, start + length)
            part = inputs._replace(tokens_BS=inputs.tokens_BS[:, here], positions_BS=inputs.positions_BS[:, here],
                                   documents_BS=None if documents is None else documents[:, here])
            torch.testing.assert_close(model(part, cache), whole[:, here], rtol=1e-4, atol=1e-4)
            start += length
        with pytest.raises(ValueError, match="sequence_length=48"):
            model(part, cache)

    run_single(rank)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_hugging_face(name: str) -> None:
    config = CONFIGS[name]

    def rank(_: int) -> None:
        model, theirs = build(config), hugging_face(config)
        theirs.load_state_dict(to_hugging_face(config, model.state_dict()), strict=False)
        wanted = theirs.generate(torch.tensor([PROMPT]), attention_mask=torch.ones(1, 5), max_new_tokens=40, do_sample=False,
                                 pad_token_id=0, eos_token_id=None)[0, 5:].tolist()
        assert list(generate(model, PROMPT, max_new_tokens=40, temperature=0.0)) == wanted
        assert model.training

    run_single(rank)


def test_a_ragged_batch_equals_each_prompt_alone() -> None:
    prompts = [PROMPT, [9], [250, 4, 3, 2, 1, 0, 77, 31]]

    def rank(_: int) -> None:
        for config in CONFIGS.values():
            model = build(config)
            together = list(generate_batch(model, prompts, max_new_tokens=20, sampling=Sampling(temperature=0.0)))
            for row, prompt in enumerate(prompts):
                alone = list(generate(model, prompt, max_new_tokens=20, temperature=0.0))
                assert [ids[row] for ids in together] == alone

    run_single(rank)


def test_every_rank_and_every_degree_choose_the_same() -> None:
    config = replace(LLAMA3, num_kv_heads=4)

    def rank(_: int) -> list[int]:
        return list(generate(build(config), PROMPT, max_new_tokens=30, temperature=0.9, top_k=50, top_p=0.95, seed=4))

    single = run_single(rank)
    assert run_ranks(rank, 2) == [single] * 2
    assert run_ranks(rank, 4) == [single] * 4
    assert all(0 <= i < config.vocab_size for i in single)


def test_padding_columns_are_never_chosen() -> None:
    def rank(number: int) -> list[int]:
        model = build(GPT2)  # tied, 257 rows on two ranks: the last row of rank 1 is padding
        if number == 1:
            with torch.no_grad():
                model.head.weight[-1] = 100.0 * torch.randn(64, generator=torch.Generator().manual_seed(0))
        return list(generate(model, PROMPT, max_new_tokens=30, temperature=0.0))

    assert run_ranks(rank, 2) == [run_single(lambda _: rank(0))] * 2


def test_seeds_stops_and_early_ends() -> None:
    def rank(_: int) -> None:
        model = build(GPT2)
        first = list(generate(model, PROMPT, max_new_tokens=20, seed=1))
        assert first == list(generate(model, PROMPT, max_new_tokens=20, seed=1))
        assert first != list(generate(model, PROMPT, max_new_tokens=20, seed=2))
        stop = first[7]
        end = first.index(stop)
        assert list(generate(model, PROMPT, max_new_tokens=20, seed=1, stop_ids=[stop])) == first[:end + 1]
        rows = list(generate_batch(model, [PROMPT, PROMPT], max_new_tokens=20, sampling=Sampling(seed=1), stop_ids=[stop]))
        assert [ids[0] for ids in rows][:end + 1] == first[:end + 1]
        assert all(ids[0] is None for ids in rows[end + 1:])
        stream = generate(model, PROMPT, max_new_tokens=20)
        next(stream)
        assert not model.training
        stream.close()
        assert model.training

    run_single(rank)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"prompt_ids": []}, "no tokens"), ({"prompt_ids": [1] * 48}, "shorten it to 47"), ({"prompt_ids": [257]}, "id 257"),
    ({"prompt_ids": [-1]}, "id -1"), ({"max_new_tokens": 44}, "set max_new_tokens=43 or less"), ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"temperature": -1.0}, "temperature=-1"), ({"temperature": float("nan")}, "temperature=nan"), ({"top_k": -1}, "top_k=-1"),
    ({"top_p": 0.0}, "top_p=0"), ({"top_p": 1.5}, "top_p=1.5")])
def test_impossible_requests_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"prompt_ids": PROMPT, "max_new_tokens": 4, **arguments}

    def rank(_: int) -> None:
        with pytest.raises(ValueError, match=message):
            generate(build(GPT2), **request)

    run_single(rank)


@pytest.mark.parametrize(("top_k", "top_p", "temperature"), [
    (0, 1.0, 1.0), (0, 1.0, 0.5), (5, 1.0, 1.0), (0, 0.7, 1.0), (8, 0.6, 1.5), (1, 1.0, 1.0)])
def test_sampling_has_hugging_faces_distribution(top_k: int, top_p: float, temperature: float) -> None:
    torch.manual_seed(0)
    logits, draws = torch.randn(1, 30) * 2, 100_001
    filtered = logits / temperature
    if top_k:
        filtered = TopKLogitsWarper(top_k)(torch.empty(0), filtered)
    if top_p < 1:
        filtered = TopPLogitsWarper(top_p)(torch.empty(0), filtered)
    wanted = filtered.double().softmax(-1)[0]
    grid = (torch.arange(draws).double() + 0.5) / draws  # an even grid instead of luck
    counts = Counter(choose(logits.expand(draws, -1), Sampling(top_k=top_k, top_p=top_p, temperature=temperature), grid).tolist())
    for i in range(30):
        assert abs(counts[i] / draws - wanted[i]) < 2 / draws + 1e-6


def test_uniforms_are_uniform_and_each_rows_own() -> None:
    values = torch.stack([uniforms(3, rows=100, draw=draw) for draw in range(100)])
    assert ((values > 0) & (values < 1)).all()
    assert values.unique().numel() == values.numel()
    assert abs(values.mean() - 0.5) < 0.012
    assert torch.equal(uniforms(3, rows=7, draw=5), uniforms(3, rows=100, draw=5)[:7])
