"""Row D1 at the engine: a loss or a gradient that is not finite on one rank is passed over by all ranks at that step, on every layout.

Nothing lasting changes, and what follows is bit for bit what follows where the bad step's update was left out.
"""

import math
import os

import pytest
import torch
from hexareme.conf.compose import compose
from hexareme.core.batch import BatchPlan
from hexareme.core.engine import engine as engine_module
from hexareme.core.engine.routers import Routers
from hexareme.core.engine.tied import TiedEnds
from hexareme.core.inputs import cut_to_context
from hexareme.core.model.block import Block
from hexareme.core.origin import Witness, first_seen, gather
from hexareme.core.run import build
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.core.test_parity import rows_of
from tests.ranks import RankError, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

GLOBAL = 8
COMMON = [
    "experiment=debug", "data.train=none", "model.sequence_length=32", "model.vocab_size=512", "model.hidden_size=32",
    "model.ffn_hidden_size=64", "model.num_heads=4", "model.num_kv_heads=4", "model.num_layers=4", "model.dropout=0.1",
    "optimizer.learning_rate=0.001", "schedule=cosine", "schedule.warmup_steps=2", "train.steps=20", f"batch.global_size={GLOBAL}",
    "batch.micro_size=2",
]
EXPERTS = "model.num_experts=4 model.experts_per_token=2 model.router_balance=bias"
LAYOUTS = {
    "ZeRO-0": "parallel.zero=0", "ZeRO-1": "parallel.zero=1", "ZeRO-2": "parallel.zero=2", "ZeRO-3": "parallel.zero=3",
    "ZeRO-1 bf16": "parallel.zero=1 train.precision=bf16",
    "ZeRO-1 fp16": "parallel.zero=1 train.precision=fp16", "ZeRO-3 fp16": "parallel.zero=3 train.precision=fp16",
    "TP2": "parallel.tp=2", "CP2": "parallel.cp=2", "EP2": f"parallel.ep=2 {EXPERTS}",
    "PP2 1f1b, tied": "parallel.pp=2 model.tie_embeddings=true", "PP2 zbv": "parallel.pp=2 parallel.schedule=zbv",
}


class Fault:
    """Makes the output of this rank's first block, or the gradient that reaches its last block, infinite while it is armed."""

    def __init__(self, module, where):
        blocks = [each for each in module.modules() if isinstance(each, Block)]
        self.armed, self.where = False, where
        (blocks[0] if where == "loss" else blocks[-1]).register_forward_hook(self._poison)

    def _poison(self, module, inputs, output):
        if self.armed and self.where == "loss":
            return output + float("nan")
        if self.armed:
            output.register_hook(lambda gradient: gradient * float("inf"))
        return output


def opened(rank, config):
    os.environ["LOCAL_RANK"] = str(rank)
    parallel = config.parallel
    topology = Topology.divide(world_size=2, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=parallel.ep)
    context = ParallelContext.create(topology, rank)
    plan = BatchPlan.divide(global_size=GLOBAL, micro_size=config.batch.micro_size, dp=topology.dp)
    return context, plan, build(config, context, torch.device("cpu"), plan)


def step(config, context, plan, engine, number):
    rows, size = [sample - number * GLOBAL for sample in plan.samples(number, context.coordinate.dp)], config.batch.micro_size
    groups = context.layer_groups(context_attention=config.parallel.context_attention.value)
    return engine.train_step([cut_to_context(rows_of(number, rows[at : at + size]), groups) for at in range(0, len(rows), size)])


def state_of(built):
    state = {(each.name, each.kind, each.start): each.tensor.clone() for each in built.state.fragments()}
    return state | {key: torch.tensor(float(value)) for key, value in built.state.counters().items() if key != "cur_iter"}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def nothing(rank):
    return


def gradients_kept(rank):
    """Mutant: a step that is passed over leaves its gradients behind."""
    engine_module.pass_over = lambda engine: None


def copy_kept(rank):
    """Mutant: the tied copy, of which DeepSpeed does not know, keeps its gradient."""
    TiedEnds.drop_gradient = lambda self: None


def biases_moved(rank):
    """Mutant: the load of a step that changed nothing moves the routers' biases."""
    Routers.pass_over = Routers.after_step


def course(rank, config, kinds, guilty, mutant=nothing):
    """Steps 0, 2, 4 are good, 1 and 3 bad on one rank; beside it, a run in which these were left out. What of it agrees."""
    mutant(rank)
    context, plan, built = opened(rank, config)
    faults = {kind: Fault(built.engine.module, kind) for kind in kinds}
    other = opened(rank, config)[2]
    found, agree = [], []
    for number in range(2 * len(kinds) + 1):
        if number % 2 == 0:
            results = [step(config, context, plan, each.engine, number) for each in (built, other)]
            agree.append(len({(each.loss.hex(), each.grad_norm.hex()) for each in results}) == 1)
            agree.append(math.isfinite(results[0].grad_norm) and equal(state_of(built), state_of(other)))
            agree.append(built.engine.learning_rate == other.engine.learning_rate)
            continue
        before, fault = state_of(built), faults[kinds[number // 2]]
        fault.armed = rank == guilty
        bad = step(config, context, plan, built.engine, number)
        fault.armed = False
        first = first_seen(gather(context, Witness(rank, context.coordinate.pp, context.coordinate.dp, built.engine.seen(), "")))
        found.append((bad, first[0], [each.rank for each in first[1]], equal(before, state_of(built))))
        other.engine.go_to(number + 1)
    return found, agree


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bad_step_is_passed_over(layout):
    config = compose("train", [*COMMON, *LAYOUTS[layout].split()])
    kinds = ["loss"] if "fp16" in layout else ["loss", "gradient"]  # there the other is an overflow: D3 in tests/faults/test_numbers.py
    guilty = 1 if config.parallel.pp == 1 else 0
    for found, agree in run_ranks(course, 2, config, kinds, guilty, timeout=60):
        for kind, (bad, where, ranks, unchanged) in zip(kinds, found, strict=True):
            assert bad.non_finite == kind and not bad.overflow
            assert math.isfinite(bad.loss) == (kind == "gradient") and not math.isfinite(bad.grad_norm)
            assert ("gradient" in where) == (kind == "gradient")
            assert guilty in ranks and (ranks == [guilty] or config.parallel.tp * config.parallel.cp * config.parallel.ep > 1)
            assert unchanged, "the state changed"
        assert all(agree), "what follows is not what follows without the step"


@pytest.mark.parametrize(("layout", "mutant"), [
    ("ZeRO-0", gradients_kept), pytest.param("ZeRO-3", gradients_kept, marks=pytest.mark.nightly), ("PP2 1f1b, tied", copy_kept),
    ("EP2", biases_moved)])
def test_a_mutant_turns_it_red(layout, mutant):
    config = compose("train", [*COMMON, *LAYOUTS[layout].split()])
    try:
        ranks = run_ranks(course, 2, config, ["loss"], 1 if config.parallel.pp == 1 else 0, mutant, timeout=60)
    except RankError as error:
        print(f"{mutant.__name__}: {error}")
        return
    assert not all(all(agree) and all(unchanged for *_, unchanged in found) for found, agree in ranks)
