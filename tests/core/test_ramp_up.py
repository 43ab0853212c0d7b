"""A batch that ramps up: loss and norm of each step against a plain torch loop with the same batches."""

import os

import pytest
import torch
from hexareme.core.batch import BatchPlan
from hexareme.core.engine.routers import Routers
from hexareme.core.inputs import cut_to_context
from hexareme.core.model.build import build_model
from hexareme.core.run import build
from hexareme.parallel.context import LayerGroups, ParallelContext
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.core.test_parity import config_of, differences, plain_course, rows_of
from tests.ranks import RankError, run_ranks, run_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

STEPS, SIZES = 9, [4, 4, 4, 8, 8, 12, 12, 12, 12]  # a level is 12 samples
RAMP = ["batch.global_size=12", "batch.ramp_up={start: 4, increment: 4, samples: 24}", "model.num_layers=2"]


def ramping(*overrides):
    return config_of(*RAMP, *overrides)


def plain_loop(rank, config):
    model = build_model(config.model, seed=0, groups=LayerGroups.of_tensor_axis(torch.distributed.group.WORLD), device="cpu")
    batches = [rows_of(step, list(range(size)), total=size) for step, size in enumerate(SIZES)]
    return plain_course(model, config.optimizer, batches)


def engine_loop(rank, config, world_size, mutant=lambda: None, steps=STEPS):
    os.environ["LOCAL_RANK"] = str(rank)
    mutant()
    p = config.parallel
    topology = Topology.divide(world_size=world_size, tp=p.tp, pp=p.pp, cp=p.cp, ep=p.ep)
    context = ParallelContext.create(topology, rank)
    plan, micro = BatchPlan.of(config.batch, dp=topology.dp), config.batch.micro_size
    engine = build(config, context, torch.device("cpu"), plan).engine
    groups, found = context.layer_groups(context_attention=p.context_attention.value), []
    for step in range(steps):
        size, first = plan.size(step), plan.first_sample(step)
        rows = [sample - first for sample in plan.samples(step, context.coordinate.dp)]
        micros = [cut_to_context(rows_of(step, rows[at : at + micro], total=size), groups) for at in range(0, len(rows), micro)]
        result = engine.train_step(micros)
        found.append((result.loss, result.grad_norm))
    return found


@pytest.fixture(scope="module")
def reference():
    return run_single(plain_loop, ramping("batch.micro_size=4"))


LAYOUTS = {
    "DP2, ZeRO-0": (2, "parallel.zero=0 batch.micro_size=1"),
    "DP2, ZeRO-2": (2, "parallel.zero=2 batch.micro_size=2"),
    "PP2, 1f1b": (2, "parallel.pp=2 batch.micro_size=2"),
    "one process, ZeRO-1": (1, "parallel.zero=1 batch.micro_size=2"),
    "DP2, ZeRO-3": (2, "parallel.zero=3 batch.micro_size=2"),
    "DP2, ZeRO-2, optimizer in host memory": (2, "parallel.zero=2 parallel.offload=optimizer batch.micro_size=1"),
    "DP2, ZeRO-3, all in host memory": (2, "parallel.zero=3 parallel.offload=optimizer_and_parameters batch.micro_size=1"),
    "PP2, zbv": (2, "parallel.pp=2 parallel.schedule=zbv model.num_layers=4 batch.micro_size=1"),
    "PP2, interleaved": (2, "parallel.pp=2 parallel.schedule=interleaved_1f1b parallel.virtual_stages=2 model.num_layers=4 "
                         "batch.micro_size=1"),
    "PP2 x DP2, gpipe": (4, "parallel.pp=2 parallel.schedule=gpipe batch.micro_size=1"),
}


@pytest.mark.parametrize("name", [*list(LAYOUTS)[:3], *(pytest.param(name, marks=pytest.mark.nightly) for name in list(LAYOUTS)[3:])])
def test_each_step_has_the_loss_and_the_norm_of_a_plain_torch_loop(name, reference):
    world_size, overrides = LAYOUTS[name]
    config = ramping(*overrides.split())
    expected = reference if config.model.num_layers == 2 else run_single(plain_loop, config)
    ranks = run_ranks(engine_loop, world_size, config, world_size, timeout=280)
    assert all(found == ranks[0] for found in ranks)
    loss, norm = differences(ranks[0], expected)
    assert loss < 1e-5
    assert norm < 1e-5


def deepspeed_counts():
    """Mutant: where a step ends is left to DeepSpeed, which counts on equally many micro-batches in each."""
    from deepspeed import DeepSpeedEngine

    DeepSpeedEngine.set_gradient_accumulation_boundary = lambda self, is_boundary: None


def test_deepspeeds_own_count_would_be_seen(reference):
    assert engine_differs(reference, deepspeed_counts)


def engine_differs(reference, mutant):
    try:
        found = run_ranks(engine_loop, 2, ramping("parallel.zero=2", "batch.micro_size=2"), 2, mutant, timeout=280)[0]
        return max(differences(found, reference)) > 1e-3
    except RankError:
        return True


EXPERTS = "model.num_experts=4 model.experts_per_token=2 model.router_balance=loss model.router_balance_coefficient=1.0 batch.micro_size=2"


def scale_of_the_whole_batch():
    """Mutant: the losses of routers are scaled by batch.global_size, whatever the step has."""
    right = Routers.before_step
    Routers.before_step = lambda self, micro_batches: right(self, 6)


@pytest.mark.parametrize("mutant", [None, scale_of_the_whole_batch])
def test_routers_losses_are_means_over_the_steps_own_samples(mutant):
    ramped = run_single(engine_loop, ramping(*EXPERTS.split()), 1, mutant or (lambda: None), 1, timeout=120)
    constant = config_of("model.num_layers=2", "batch.global_size=4", *EXPERTS.split())
    plain = run_single(engine_loop, constant, 1, lambda: None, 1, timeout=120)
    assert (differences(ramped, plain) == [0, 0]) == (mutant is None)
