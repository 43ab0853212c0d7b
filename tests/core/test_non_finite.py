"""A loss or gradient that is not finite on one rank stops all ranks at that step, before the optimizer changes anything."""

import os

import pytest
import torch
from hexareme.core.engine.build import build_engine
from hexareme.core.errors import NonFiniteError
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import Topology

from tests.core.test_parity import config_of, rows_of
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def poisoned_step(rank, config, where):
    """One good step, then one in which only rank 1 computes something infinite; what the state was before and after that."""
    os.environ["LOCAL_RANK"] = str(rank)
    context = ParallelContext.create(Topology.divide(world_size=2, tp=1, pp=1, cp=1, ep=1), rank)
    model = LossModel(build_model(config.model, seed=0, groups=context.layer_groups(), device="cpu"))
    if where == "gradient" and rank == 1:
        weight = model.transformer.final_norm.weight
        calls = iter((0.0, float("inf")))
        weight.register_hook(lambda gradient: gradient + next(calls))
    if where == "loss" and rank == 1:
        calls = iter((0.0, float("nan")))
        model.transformer.final_norm.register_forward_hook(lambda module, inputs, output: output + next(calls))
    built = build_engine(model, config, context=context, device=torch.device("cpu"), accumulation_steps=1)
    rows = range(rank * 4, rank * 4 + 4)
    built.engine.train_step([rows_of(0, list(rows))])
    before = [fragment.tensor.clone() for fragment in built.state.fragments()]
    try:
        built.engine.train_step([rows_of(1, list(rows))])
    except NonFiniteError as error:
        after = [fragment.tensor for fragment in built.state.fragments()]
        return str(error), all(map(torch.equal, before, after))
    return "no error", False


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_all_ranks_stop_and_nothing_is_changed(where, zero):
    found = run_ranks(poisoned_step, 2, config_of(f"parallel.zero={zero}", "batch.micro_size=4"), where, timeout=60)
    for message, unchanged in found:
        assert where in message
        assert unchanged
