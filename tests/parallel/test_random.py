"""Counter-based randomness: against published values and scipy-free statistics; the same on every layout."""

import math
from typing import Any

import pytest
import torch
from hexareme.parallel import random
from hexareme.parallel.partition import shard_padded, shard_parts
from hexareme.parallel.random import attention_dropout, drop, dropout, fill_normal, hashed, stream_key
from hypothesis import given, settings
from hypothesis import strategies as st

# SplitMix64 from seed 1234567, as published with the reference implementation (Vigna, prng.di.unimi.it; also Rosetta Code)
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
MASK = 2**64 - 1


def splitmix(key: int, counter: int) -> int:
    """The algorithm once more, in Python's unbounded integers."""
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_hash_gives_the_published_values() -> None:
    assert [int(v) & MASK for v in hashed(1234567, torch.arange(5))] == PUBLISHED


@given(st.integers(-2**63, 2**63 - 1), st.integers(0, 2**62))
def test_hash_equals_unbounded_integers(key: int, counter: int) -> None:
    assert int(hashed(key, torch.tensor(counter))) & MASK == splitmix(key, counter)


def test_normal_equals_box_muller_in_python() -> None:
    tensor = torch.empty(300, dtype=torch.float64)
    fill_normal(tensor, shard_padded((300,), dim=0, degree=1, index=0), seed=7, name="w", std=2.0)
    key = stream_key(7, "normal", "w")
    for i in range(300):
        bits = splitmix(key, i)
        radius = math.sqrt(-2 * math.log(((bits >> 32) + 0.5) / 2**32))
        angle = math.sin(math.pi / 2 * ((bits & (2**31 - 1)) + 0.5) / 2**31)
        assert tensor[i].item() == pytest.approx(2.0 * radius * angle * (-1 if bits >> 31 & 1 else 1), rel=1e-9)


@pytest.mark.parametrize("extreme", [0, -1, 2**32 - 1, -2**32, 2**31 - 1, 2**63 - 1, -2**63])
def test_extreme_bits_give_finite_normals(extreme: int) -> None:
    value = random._normal(torch.tensor([extreme]))
    assert value.isfinite().all()
    assert value.abs() < 7


def test_normals_are_normal() -> None:
    n = 2**20
    sample = torch.empty(n)
    fill_normal(sample, shard_padded((n,), dim=0, degree=1, index=0), seed=1, name="x", std=1.0)
    sample = sample.double()
    assert abs(sample.mean()) < 4 / math.sqrt(n)
    assert abs((sample**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((sample**4).mean() - 3) < 4 * math.sqrt(96 / n)
    cumulative = torch.special.ndtr(sample.sort().values)
    distance = (cumulative - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %
    assert abs((sample[1:] * sample[:-1]).mean()) < 4 / math.sqrt(n)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1), st.sampled_from([3, 64, 2**14]))
def test_a_shard_is_the_slice_of_the_whole(degree: int, rows: int, columns: int, dim: int, chunk: int) -> None:
    shape = (rows, columns * degree) if dim else (rows * degree, columns)
    whole = torch.empty(shape)
    fill_normal(whole, shard_padded(shape, dim=0, degree=1, index=0), seed=1, name="x", std=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "_HOST_CHUNK", chunk)
        for index in range(degree):
            shard = shard_parts(shape, dim=dim, parts=(shape[dim],), degree=degree, index=index)
            local = torch.empty(shard.local_shape)
            fill_normal(local, shard, seed=1, name="x", std=0.02)
            assert torch.equal(local, whole.chunk(degree, dim)[index])


def test_padding_becomes_zero() -> None:
    shard = shard_padded((5, 3), dim=0, degree=2, index=1)
    local = torch.full(shard.local_shape, torch.nan)
    fill_normal(local, shard, seed=1, name="x", std=1.0)
    assert local[:2].all()
    assert not local[2].any()


def test_streams_differ_by_every_part() -> None:
    parts: list[tuple[Any, ...]] = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", "x"), (1, "ax"), (11, "a"), (1, "1", "a")]
    keys = [stream_key(seed, *names) for seed, *names in parts]
    assert len(set(keys)) == len(keys)
    assert all(-2**63 <= key < 2**63 for key in keys)


def apply(x: torch.Tensor, p: float, *, site: int = 5, step: int = 0, first_sample: int = 0,
          positions: torch.Tensor | None = None) -> torch.Tensor:
    B, S, _ = x.shape
    where = torch.arange(S) if positions is None else positions
    return dropout(x, p, site_key=site, step=torch.tensor(step), samples_B=first_sample + torch.arange(B), positions_S=where)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p: float) -> None:
    n = 8 * 64 * 512
    dropped = apply(torch.ones(8, 64, 512), p)
    spread = math.sqrt(p * (1 - p))
    assert abs((dropped == 0).double().mean() - p) < 4 * spread / math.sqrt(n) + 1 / 65536
    assert abs(dropped.double().mean() - 1) < 4 * spread / (1 - p) / math.sqrt(n)
    zero = (dropped == 0).double() - p
    for shift in (torch.roll(zero, 1, d) for d in range(3)):  # neighbours along each dim are independent
        assert abs((zero * shift).mean()) < 5 * spread**2 / math.sqrt(n)
    for other in (apply(torch.ones(8, 64, 512), p, step=1), apply(torch.ones(8, 64, 512), p, site=6)):
        assert abs((zero * ((other == 0).double() - p)).mean()) < 5 * spread**2 / math.sqrt(n)


def test_dropout_belongs_to_the_coordinate() -> None:
    x = torch.randn(4, 12, 10)
    whole = apply(x, 0.4, first_sample=7)
    assert torch.equal(whole[2:3], apply(x[2:3], 0.4, first_sample=9))
    places = torch.tensor([11, 3, 5])
    assert torch.equal(whole[:, places], apply(x[:, places], 0.4, first_sample=7, positions=places))


def test_dropout_gradient_has_the_same_mask() -> None:
    x = torch.randn(2, 5, 7, requires_grad=True)
    y = apply(x, 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad.eq(0), y.eq(0))
    assert torch.allclose(x.grad * x, y)


def test_dropout_uses_no_generator_and_zero_is_the_identity() -> None:
    x, state = torch.randn(2, 5, 7), torch.random.get_rng_state()
    assert apply(x, 0.0) is x
    apply(x, 0.3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert apply(torch.ones(1, 64, 64), 1 - 1e-9).isfinite().all()


def test_attention_dropout_belongs_to_the_global_head() -> None:
    weights = torch.ones(2, 4, 6, 6)
    common: dict[str, Any] = {"site_key": 3, "step": torch.tensor(1), "samples_B": torch.arange(2), "positions_S": torch.arange(6)}
    whole = attention_dropout(weights, 0.5, heads_N=torch.arange(4), **common)
    part = attention_dropout(weights[:, 2:], 0.5, heads_N=torch.arange(2, 4), **common)
    assert torch.equal(whole[:, 2:], part)
    flat = whole.reshape(-1, 36)
    assert len({tuple(row.tolist()) for row in flat}) == 8  # each sample and head has its own mask


def test_low_precision_dropout_keeps_its_dtype() -> None:
    assert drop(torch.ones(3, 9, dtype=torch.bfloat16), 0.25, torch.arange(3)).dtype == torch.bfloat16
