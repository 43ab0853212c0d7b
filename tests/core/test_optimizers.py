"""Optimizers beside AdamW, and fp16's loss scale, under the engine."""

import pytest
import torch

from tests.core.test_parity import GLOBAL, STEPS, config_of, differences, engine_loop, rows_of
from tests.ranks import run_ranks, run_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def plain_muon(rank, config):
    """torch's own Muon on the blocks' matrices and torch's AdamW on the rest."""
    from hexareme.core.model.build import build_model
    from hexareme.parallel.context import LayerGroups

    model = build_model(config.model, seed=0, groups=LayerGroups.of_tensor_axis(torch.distributed.group.WORLD), device="cpu")
    named = list(model.named_parameters())
    hidden = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
    rest = [p for name, p in named if not (name.startswith("blocks.") and p.ndim == 2)]
    o = config.optimizer
    groups = [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": o.weight_decay},
              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
    optimizers = [torch.optim.Muon(hidden, lr=o.learning_rate, momentum=o.momentum, weight_decay=o.weight_decay),
                  torch.optim.AdamW(groups, lr=o.auxiliary_learning_rate, betas=tuple(o.betas), eps=o.epsilon)]
    found = []
    for step in range(STEPS):
        whole = rows_of(step, list(range(GLOBAL)))
        losses = torch.nn.functional.cross_entropy(model(whole.inputs).flatten(0, 1), whole.targets_BS.flatten(), reduction="none")
        loss = (losses * whole.loss_mask_BS.flatten()).sum() / whole.loss_mask_BS.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


MUON = ("optimizer=muon", "parallel.zero=0")


def test_muon_on_two_ranks_is_muon_on_one():
    one = run_single(engine_loop, config_of(*MUON, "batch.micro_size=8"), 1)
    two = run_ranks(engine_loop, 2, config_of(*MUON, "batch.micro_size=2"), 2, timeout=120)[0]
    loss, norm = differences(two, one)
    assert loss < 1e-5
    assert norm < 1e-4  # its iteration runs in bf16 and magnifies rounding


def test_muon_follows_torchs_muon():
    config = config_of(*MUON, "batch.micro_size=8")
    loss, norm = differences(run_single(engine_loop, config, 1), run_single(plain_muon, config))
    assert loss < 1e-3
    assert norm < 2e-2


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_sgd_on_two_ranks_is_sgd_on_one(zero):
    one = run_single(engine_loop, config_of("optimizer=sgd", "parallel.zero=0", "batch.micro_size=8"), 1)
    two = run_ranks(engine_loop, 2, config_of("optimizer=sgd", f"parallel.zero={zero}", "batch.micro_size=2"), 2, timeout=120)[0]
    assert max(differences(two, one)) < 1e-5


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_fp16_stays_near_fp32(zero):
    exact = run_single(engine_loop, config_of("batch.micro_size=8"), 1)
    half = run_ranks(engine_loop, 2, config_of("train.precision=fp16", f"parallel.zero={zero}", "batch.micro_size=1"), 2, timeout=120)[0]
    loss, norm = differences(half, exact)
    assert 1e-8 < loss < 1e-3
    assert norm < 1e-2


def too_large_a_scale(rank, config):
    """The loss scale starts where every gradient overflows."""
    import os

    from hexareme.core.engine.build import build_engine
    from hexareme.core.loss import LossModel
    from hexareme.core.model.build import build_model
    from hexareme.parallel.context import ParallelContext
    from hexareme.parallel.topology import Topology

    os.environ["LOCAL_RANK"] = "0"
    context = ParallelContext.create(Topology.divide(world_size=1, tp=1, pp=1, cp=1, ep=1), rank)
    model = LossModel(build_model(config.model, seed=0, groups=context.layer_groups(), device="cpu"), precision="fp16")
    built = build_engine(model, config, context=context, device=torch.device("cpu"), accumulation_steps=1)
    built.state.set_counters({"updates": 0, "cur_scale": 2.0**40, "cur_iter": 0, "last_overflow_iter": -1, "cur_hysteresis": 1})
    before = [fragment.tensor.clone() for fragment in built.state.fragments()]
    norm = built.engine.train_step([rows_of(0, list(range(GLOBAL)))]).grad_norm
    unchanged = all(torch.equal(a, b.tensor) for a, b in zip(before, built.state.fragments(), strict=True))
    return norm, unchanged, built.state.counters()


def test_an_overflow_skips_the_step_and_halves_the_scale():
    norm, unchanged, counters = run_single(too_large_a_scale, config_of("train.precision=fp16", "batch.micro_size=8"))
    assert norm == float("inf")
    assert unchanged
    assert counters["updates"] == 0
    assert counters["cur_scale"] == 2.0**39
