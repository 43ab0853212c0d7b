"""Fewer kv heads than tensor ranks, through the engine: loss and norm of a plain loop, and checkpoints that any layout reads."""

import os
from functools import cache

import pytest
import torch
import torch.distributed as dist
from hexareme.core.batch import BatchPlan
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.engine.build import build_engine
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.resume import moments
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.heads import RepeatedKVLinear
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.core import test_parity
from tests.core.test_parity import GLOBAL, config_of, differences, engine_loop, plain_loop, rows_of
from tests.ranks import run_ranks, run_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

LAYOUTS = {
    "TP4, ZeRO-0": (4, 2, "parallel.tp=4 parallel.sequence_parallel=false parallel.zero=0 batch.micro_size=8"),
    "TP4, SP, ZeRO-1": (4, 2, "parallel.tp=4 parallel.zero=1 batch.micro_size=4"),
    "TP2 x DP2, SP, ZeRO-3": (4, 1, "parallel.tp=2 parallel.zero=3 batch.micro_size=4"),
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(test_parity, "STEPS", 5)


@cache
def plain(heads):
    return run_single(plain_loop, config_of(heads, "batch.micro_size=8"))


def of_layout(name):
    """Differences of loss and norm from the plain loop."""
    ranks, kv_heads, overrides = LAYOUTS[name]
    heads = f"model.num_kv_heads={kv_heads}"
    reference = plain(heads)
    return differences(run_ranks(engine_loop, ranks, config_of(heads, *overrides.split()), ranks, timeout=120)[0], reference)


@pytest.mark.parametrize("name", LAYOUTS)
def test_loss_and_norm_are_those_of_a_plain_loop(name):
    loss, norm = of_layout(name)
    assert loss < 1e-5
    assert norm < 1e-5


@pytest.mark.parametrize("name", ["TP4, ZeRO-0", "TP2 x DP2, SP, ZeRO-3"])
def test_counting_every_copy_would_be_seen(name, monkeypatch):
    """The gate can fail: each kv row counts in the norm once for every rank that holds it."""
    monkeypatch.setattr(RepeatedKVLinear, "copies", property(lambda self: set(), lambda self, names: None), raising=False)
    assert of_layout(name)[1] > 1e-4


def train_and_save(rank, directory, tp, resume):
    """Two steps from the start, or the state of the newest checkpoint; saved in either case."""
    os.environ["LOCAL_RANK"] = str(rank)
    config = config_of("model.num_kv_heads=2", f"parallel.tp={tp}", "batch.micro_size=8")
    context = ParallelContext.create(Topology.divide(world_size=tp, tp=tp, pp=1, cp=1, ep=1), rank)
    transformer = build_model(config.model, seed=tp, groups=context.layer_groups(sequence_parallel=True), device="cpu")
    plan = BatchPlan.divide(global_size=GLOBAL, micro_size=8, dp=1)
    built = build_engine(LossModel(transformer), config, context=context, device=torch.device("cpu"),
                         accumulation_steps=plan.accumulation_steps)
    checkpointer = Checkpointer(directory, keep=9, rank=rank, world_size=tp, agree=all_agree)
    step = 2
    if resume:
        newest = checkpointer.newest()
        built.state.materialize(moments(newest))
        found, _ = checkpointer.load_newest(built.state.fragments(), must=True, names=built.state.names)
        built.state.set_counters(found.extra)
        built.state.after_load()
        step = found.step + 1
    else:
        for number in range(2):
            built.engine.train_step([rows_of(number, list(range(GLOBAL)))])
    checkpointer.save(step=step, samples_seen=step * GLOBAL, config={}, extra=built.state.counters(), fragments=built.state.fragments())


def all_agree(ok):
    flag = torch.tensor(int(ok))
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def test_a_checkpoint_of_shared_heads_is_that_of_any_layout(tmp_path):
    for tp, resume in ((4, False), (2, True), (1, True), (4, True)):
        run_ranks(train_and_save, tp, tmp_path, tp, resume)
    first, *others = [Checkpoint.open(folder) for folder in sorted(tmp_path.glob("step-*"))]
    assert len(others) == 3
    assert first.tensors["blocks.0.attention.qkv.weight", "exp_avg"].shape == (128, 64)
    for other in others:
        assert other.tensors.keys() == first.tensors.keys()
        for name, kind in first.tensors:
            assert torch.equal(other.read_tensor(name, kind), first.read_tensor(name, kind)), (name, kind)
