"""Every stage of ZeRO, the tensor axis and offload against a plain torch loop that uses none of our engine: loss and norm of each step.

The loop takes the whole global batch at once, the loss from torch's own cross_entropy, clipping and AdamW from torch. The engine gets the
same batch cut over ranks and micro-batches, with a loss mask that differs from sample to sample, documents, and dropout.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from hexareme.conf.compose import compose
from hexareme.core.batch import BatchPlan
from hexareme.core.engine.build import build_engine
from hexareme.core.inputs import MicroBatch, cut_to_context
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.model.input import ModelInput
from hexareme.parallel.context import LayerGroups, ParallelContext
from hexareme.parallel.topology import Topology

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import run_ranks, run_single

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

GLOBAL, STEPS, LENGTH, VOCAB = 8, 20, 32, 512
COMMON = [
    "experiment=debug", "data.train=none", f"model.sequence_length={LENGTH}", f"model.vocab_size={VOCAB}", "model.dropout=0.1",
    "optimizer.learning_rate=0.001", "optimizer.weight_decay=0.1", "schedule=constant", "schedule.warmup_steps=0",
    "train.gradient_clipping=0.5", f"batch.global_size={GLOBAL}",
]


def config_of(*overrides):
    return compose("train", [*COMMON, *overrides])


def rows_of(step, rows, total=GLOBAL, length=LENGTH, vocab=VOCAB):
    """Some samples of a step's global batch, the same whoever asks."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, vocab, (total, length + 1), generator=generator)
    share = torch.rand(total, 1, generator=generator)  # of each sample's tokens that count
    mask = (torch.rand(total, length, generator=generator) < share).float()
    documents = torch.cumsum(torch.rand(total, length, generator=generator) > 0.9, dim=1)
    inputs = ModelInput(ids[rows, :-1], torch.arange(length).repeat(len(rows), 1), documents[rows], torch.tensor(rows) + step * total,
                        torch.tensor(step))
    return MicroBatch(inputs, ids[rows, 1:], mask[rows])


def plain_loop(rank, config):
    model = build_model(config.model, seed=0, groups=LayerGroups.of_tensor_axis(torch.distributed.group.WORLD), device="cpu")
    return plain_course(model, config.optimizer, [rows_of(step, list(range(GLOBAL))) for step in range(STEPS)])


def plain_course(model, o, batches):
    """Loss and norm of each step of a loop of torch's own parts; the model ends trained."""
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    sgd = o.name == "sgd"
    optimizer = torch.optim.SGD(groups, o.learning_rate) if sgd else torch.optim.AdamW(groups, o.learning_rate, (0.9, 0.95))
    found = []
    for whole in batches:
        losses = F.cross_entropy(model(whole.inputs).flatten(0, 1), whole.targets_BS.flatten(), reduction="none")
        loss = (losses * whole.loss_mask_BS.flatten()).sum() / whole.loss_mask_BS.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm.item()))
    return found


def engine_loop(rank, config, world_size):
    os.environ["LOCAL_RANK"] = str(rank)
    topology = Topology.divide(world_size=world_size, tp=config.parallel.tp, pp=1, cp=config.parallel.cp, ep=config.parallel.ep)
    context = ParallelContext.create(topology, rank)
    micro_size = config.batch.micro_size
    plan = BatchPlan.divide(global_size=GLOBAL, micro_size=micro_size, dp=topology.dp)
    groups = context.layer_groups(sequence_parallel=config.parallel.sequence_parallel,
                                  context_attention=config.parallel.context_attention.value)
    transformer = build_model(config.model, seed=0, groups=groups, device="cpu", recompute=config.train.recompute.value)
    model = LossModel(transformer, precision=config.train.precision.value)
    engine = build_engine(model, config, context=context, device=torch.device("cpu"), accumulation_steps=plan.accumulation_steps).engine
    found = []
    for step in range(STEPS):
        rows = [sample - step * GLOBAL for sample in plan.samples(step, context.coordinate.dp)]
        micros = [cut_to_context(rows_of(step, rows[at : at + micro_size]), groups) for at in range(0, len(rows), micro_size)]
        result = engine.train_step(micros)
        found.append((result.loss, result.grad_norm))
    return found


def differences(found, reference):
    """Largest relative difference of any step's loss, and of any step's norm."""
    return [max(abs(a[part] - b[part]) / abs(b[part]) for a, b in zip(found, reference, strict=True)) for part in (0, 1)]


@pytest.fixture(scope="module")
def reference():

    return run_single(plain_loop, config_of("batch.micro_size=8"))


LAYOUTS = {
    "one process, ZeRO-0": (1, "parallel.zero=0 batch.micro_size=8"),
    "one process, ZeRO-1, accumulation 4": (1, "parallel.zero=1 batch.micro_size=2"),
    "DP2, ZeRO-0": (2, "parallel.zero=0 batch.micro_size=4"),
    "DP2, ZeRO-1, accumulation 2": (2, "parallel.zero=1 batch.micro_size=2"),
    "DP2, ZeRO-2, accumulation 4": (2, "parallel.zero=2 batch.micro_size=1"),
    "DP2, ZeRO-3, accumulation 2": (2, "parallel.zero=3 batch.micro_size=2"),
    "DP2, ZeRO-3, full recomputation": (2, "parallel.zero=3 batch.micro_size=4 train.recompute=full"),
    "TP2, ZeRO-0": (2, "parallel.tp=2 parallel.sequence_parallel=false parallel.zero=0 batch.micro_size=8"),
    "TP2, ZeRO-1, selective recomputation": (2, "parallel.tp=2 parallel.sequence_parallel=false parallel.zero=1 batch.micro_size=4 "
                                             "train.recompute=selective"),
    "TP2 x DP2, ZeRO-1": (4, "parallel.tp=2 parallel.sequence_parallel=false parallel.zero=1 batch.micro_size=2"),
    "TP2 x DP2, ZeRO-3": (4, "parallel.tp=2 parallel.sequence_parallel=false parallel.zero=3 batch.micro_size=4"),
    "TP2, SP, ZeRO-1, accumulation 2": (2, "parallel.tp=2 parallel.zero=1 batch.micro_size=4"),
    "TP4, SP, ZeRO-0, selective recomputation": (4, "parallel.tp=4 parallel.zero=0 batch.micro_size=8 train.recompute=selective"),
    "TP2 x DP2, SP, ZeRO-3": (4, "parallel.tp=2 parallel.zero=3 batch.micro_size=4"),
    "CP2 ring, ZeRO-0": (2, "parallel.cp=2 parallel.zero=0 batch.micro_size=8"),
    "CP2 Ulysses, ZeRO-1, accumulation 2": (2, "parallel.cp=2 parallel.context_attention=ulysses parallel.zero=1 batch.micro_size=4"),
    "CP2 ring x DP2, ZeRO-2, selective recomputation": (4, "parallel.cp=2 parallel.zero=2 batch.micro_size=2 train.recompute=selective"),
    "CP2 Ulysses x DP2, ZeRO-3, full recomputation": (4, "parallel.cp=2 parallel.context_attention=ulysses parallel.zero=3 "
                                                      "batch.micro_size=4 train.recompute=full"),
    "TP2 x CP2 ring, SP, ZeRO-3": (4, "parallel.tp=2 parallel.cp=2 parallel.zero=3 batch.micro_size=4"),
    "CP4 ring, ZeRO-1": (4, "parallel.cp=4 parallel.zero=1 batch.micro_size=8"),
    "DP2, ZeRO-1, optimizer in host memory": (2, "parallel.zero=1 parallel.offload=optimizer batch.micro_size=4"),
    "DP2, ZeRO-2, optimizer in host memory": (2, "parallel.zero=2 parallel.offload=optimizer batch.micro_size=2"),
    "DP2, ZeRO-3, all in host memory": (2, "parallel.zero=3 parallel.offload=optimizer_and_parameters batch.micro_size=4"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_the_loss_and_the_norm_of_a_plain_torch_loop(name, reference):
    world_size, overrides = LAYOUTS[name]
    config = config_of(*overrides.split())
    ranks = run_ranks(engine_loop, world_size, config, world_size, timeout=120)
    assert all(found == ranks[0] for found in ranks), "the ranks disagree on the loss or the norm"
    loss, norm = differences(ranks[0], reference)
    assert loss < 1e-5
    assert norm < 1e-5


def test_accumulating_equals_one_large_micro_batch_with_a_mask_that_differs():

    four_of_two, one_of_eight = (run_single(engine_loop, config_of(f"batch.micro_size={size}"), 1) for size in (2, 8))
    loss, norm = differences(four_of_two, one_of_eight)
    assert loss < 1e-6
    assert norm < 1e-5


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_bf16_stays_near_fp32_and_accumulates_in_fp32(zero, reference):
    config = config_of("train.precision=bf16", f"parallel.zero={zero}", "batch.micro_size=1")
    loss, norm = differences(run_ranks(engine_loop, 2, config, 2, timeout=120)[0], reference)
    assert 1e-7 < loss < 5e-3  # above 0: the matrix products really ran in bf16
    assert norm < 2e-2


def test_the_mean_of_means_would_be_seen(reference, monkeypatch):
    """The gate can fail: dividing by each rank's own token count is off by far more than the tolerance."""
    from hexareme.core.engine.engine import Engine

    monkeypatch.setattr(Engine, "_global_sum", staticmethod(lambda value, group: float(value) * group.size()))
    found = run_ranks(engine_loop, 2, config_of("batch.micro_size=4"), 2, timeout=120)[0]
    assert differences(found, reference)[1] > 1e-3


def test_counting_shards_as_copies_would_be_seen(reference, monkeypatch):
    """The gate can fail: the shards of the second tensor rank are missing from the norm."""
    from hexareme.core.engine import norm

    monkeypatch.setattr(norm, "counted", lambda placed, context: context.tensor.rank() == 0)
    found = run_ranks(engine_loop, 2, config_of("parallel.tp=2", "batch.micro_size=8"), 2, timeout=120)[0]
    assert differences(found, reference)[1] > 1e-3
