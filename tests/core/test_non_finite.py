"""Row D1 at the engine: a loss or a gradient that is not finite on one rank is passed over by all ranks at that step, on every layout.

Nothing lasting changes, and what follows is bit for bit what follows where the bad step's update was left out.
"""

import math
import os

import pytest
import torch
import torch.distributed as dist
from hexareme.conf.compose import compose
from hexareme.core.batch import BatchPlan
from hexareme.core.inputs import cut_to_context
from hexareme.core.model.block import Block
from hexareme.core.run import build
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.core.test_parity import rows_of
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

GLOBAL = 8
COMMON = [
    "experiment=debug", "data.train=none", "model.sequence_length=32", "model.vocab_size=512", "model.hidden_size=32",
    "model.ffn_hidden_size=64", "model.num_heads=4", "model.num_kv_heads=4", "model.num_layers=4", "model.dropout=0.1",
    "optimizer.learning_rate=0.001", "schedule=cosine", "schedule.warmup_steps=2", "train.steps=20", f"batch.global_size={GLOBAL}",
    "batch.micro_size=2",
]
EXPERTS = "model.num_experts=4 model.experts_per_token=2"
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


def course(rank, config, where, guilty, good=1):
    """Good steps, one that is bad on one rank, two good ones; the same with the bad one left out. What of it agrees."""
    context, plan, built = opened(rank, config)
    fault = Fault(built.engine.module, where)
    for number in range(good):
        step(config, context, plan, built.engine, number)
    before = state_of(built)
    fault.armed = rank == guilty
    bad = step(config, context, plan, built.engine, good)
    seen, unchanged = built.engine.seen(), equal(before, state_of(built))
    fault.armed = False
    after = [step(config, context, plan, built.engine, good + 1 + more) for more in range(2)]
    context, plan, other = opened(rank, config)
    for number in range(good):
        step(config, context, plan, other.engine, number)
    other.engine.go_to(good + 1)
    expected = [step(config, context, plan, other.engine, good + 1 + more) for more in range(2)]
    numbers = [[(each.loss.hex(), each.grad_norm.hex()) for each in results] for results in (after, expected)]
    same = numbers[0] == numbers[1] and equal(state_of(built), state_of(other))
    rates = built.engine.learning_rate == other.engine.learning_rate
    dist.barrier()
    return bad, seen, unchanged, same and rates


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bad_step_is_passed_over(layout, where):
    if "fp16" in layout and where == "gradient":
        pytest.skip("is an overflow: test_loss_scale.py")
    config = compose("train", [*COMMON, *LAYOUTS[layout].split()])
    found = run_ranks(course, 2, config, where, 1 if config.parallel.pp == 1 else 0, timeout=60)
    for bad, _, unchanged, same in found:
        assert bad.non_finite == where and not bad.overflow
        assert math.isfinite(bad.loss) == (where == "gradient") and not math.isfinite(bad.grad_norm)
        assert unchanged, "the state changed"
        assert same, "what follows is not what follows without the step"
