"""Every pipeline schedule against a plain torch loop on one process: loss and norm of each step, and every parameter at the end.

The reference takes the whole global batch at once and knows no stages; the pipelines get it cut over ranks and micro-batches, with
documents, dropout, and a loss mask that differs from sample to sample.
"""

import os
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hexareme.conf.compose import compose
from hexareme.core.batch import BatchPlan
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.core.run import build
from hexareme.parallel.context import LayerGroups, ParallelContext
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import run_ranks, run_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

GLOBAL, STEPS, LENGTH, VOCAB = 16, 8, 16, 96
COMMON = [
    "experiment=debug", "data.train=none", f"model.sequence_length={LENGTH}", f"model.vocab_size={VOCAB}", "model.hidden_size=32",
    "model.ffn_hidden_size=64", "model.num_heads=4", "model.num_kv_heads=4", "model.num_layers=8", "model.dropout=0.1",
    "optimizer.learning_rate=0.001", "optimizer.weight_decay=0.1", "schedule=constant", "schedule.warmup_steps=0",
    "train.gradient_clipping=0.5", f"batch.global_size={GLOBAL}", "batch.micro_size=2",
]
LLAMA = ("model.positions=rope model.normalization=rmsnorm model.activation=swiglu model.bias=false model.tie_embeddings=false "
         "model.num_kv_heads=2")
SGD = "optimizer=sgd optimizer.learning_rate=0.1 optimizer.momentum=0"


def config_of(overrides):
    return compose("train", [*COMMON, *overrides.split()])


@dataclass
class Run:
    """What a loop found: loss and norm of each step, and the parameters after the last."""

    steps: list
    parameters: dict


def rows_of(step, rows):
    """Some samples of a step's global batch, the same whoever asks."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCAB, (GLOBAL, LENGTH + 1), generator=generator)
    share = torch.rand(GLOBAL, 1, generator=generator)  # of each sample's tokens that count
    mask = (torch.rand(GLOBAL, LENGTH, generator=generator) < share).float()
    documents = torch.cumsum(torch.rand(GLOBAL, LENGTH, generator=generator) > 0.9, dim=1)
    inputs = ModelInput(ids[rows, :-1], torch.arange(LENGTH).repeat(len(rows), 1), documents[rows], torch.tensor(rows) + step * GLOBAL,
                        torch.tensor(step))
    return MicroBatch(inputs, ids[rows, 1:], mask[rows])


def plain_loop(rank, config):
    model = build_model(config.model, seed=0, groups=LayerGroups.of_tensor_axis(dist.group.WORLD), device="cpu")
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    o = config.optimizer
    optimizer = torch.optim.SGD(groups, o.learning_rate) if o.name == "sgd" else torch.optim.AdamW(groups, o.learning_rate, (0.9, 0.95))
    found = []
    for step in range(STEPS):
        whole = rows_of(step, list(range(GLOBAL)))
        losses = F.cross_entropy(model(whole.inputs).flatten(0, 1), whole.targets_BS.flatten(), reduction="none")
        loss = (losses * whole.loss_mask_BS.flatten()).sum() / whole.loss_mask_BS.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return Run(found, {name: parameter.detach() for name, parameter in model.named_parameters()})


def opened(rank, config):
    """The groups, the batch's division and the engine of a run, as training builds them."""
    os.environ["LOCAL_RANK"] = str(rank)
    parallel = config.parallel
    topology = Topology.divide(world_size=dist.get_world_size(), tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=1)
    context = ParallelContext.create(topology, rank)
    plan = BatchPlan.divide(global_size=GLOBAL, micro_size=config.batch.micro_size, dp=topology.dp)
    return context, plan, build(config, context, torch.device("cpu"), plan)


def engine_loop(rank, config):
    context, plan, built = opened(rank, config)
    groups = context.layer_groups(context_attention=config.parallel.context_attention.value)
    size, found = config.batch.micro_size, []
    for step in range(STEPS):
        rows = [sample - step * GLOBAL for sample in plan.samples(step, context.coordinate.dp)]
        micros = [cut_to_context(rows_of(step, rows[at : at + size]), groups) for at in range(0, len(rows), size)]
        result = built.engine.train_step(micros)
        found.append((result.loss, result.grad_norm))
    held = [fragment for fragment in built.state.fragments() if fragment.kind == "parameter"]
    return found, [(each.name, list(each.shard.runs()), each.shard.shape, each.start, each.tensor) for each in held]


def run_layout(world_size, config):
    """The steps, which all ranks must report alike, and whole parameters, of which all ranks must hold equal copies."""
    ranks = run_ranks(engine_loop, world_size, config, timeout=120)
    assert all(steps == ranks[0][0] for steps, _ in ranks), "the ranks disagree on the loss or the norm"
    whole = {}
    for _, fragments in ranks:
        for name, runs, shape, start, tensor in fragments:
            flat = whole.setdefault(name, torch.full(shape, torch.nan)).view(-1)
            for local, place, length in runs:
                first, last = max(local, start), min(local + length, start + tensor.numel())
                if first < last:
                    here, value = flat[place + first - local : place + last - local], tensor[first - start : last - start]
                    assert bool(here.isnan().all()) or torch.equal(here, value), f"{name}: copies differ"
                    here.copy_(value)
    return Run(ranks[0][0], whole)


def compare(found, reference):
    """Largest relative difference of a step's loss, of a step's norm, and (norm-wise) of a parameter."""
    loss, norm = (max(abs(a[part] - b[part]) / abs(b[part]) for a, b in zip(found.steps, reference.steps, strict=True)) for part in (0, 1))
    assert found.parameters.keys() == reference.parameters.keys()
    distances = [((found.parameters[name] - whole).norm() / whole.norm().clamp(min=1e-30)).item()
                 for name, whole in reference.parameters.items() if not name.endswith("qkv.bias")]
    return loss, norm, max(distances)


@pytest.fixture(scope="module")
def references():
    """The plain loop's run of a model, made when a test first asks for it."""
    made = {}

    def of(config):
        key = repr((config.model, config.optimizer))
        if key not in made:
            made[key] = run_single(plain_loop, config)
        return made[key]

    return of


LAYOUTS = {
    "PP2, 1f1b": (2, f"parallel.pp=2 {SGD}"),
    "PP2, zbv, tied": (2, f"parallel.pp=2 parallel.schedule=zbv {SGD}"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_the_course_of_a_plain_torch_loop(name, references):
    world_size, overrides = LAYOUTS[name]
    config = config_of(overrides)
    loss, norm, parameters = compare(run_layout(world_size, config), references(config))
    print(name, f"{loss:.1e} {norm:.1e} {parameters:.1e}")
    assert loss < 1e-5
    assert norm < 1e-5
    assert parameters < 1e-5
