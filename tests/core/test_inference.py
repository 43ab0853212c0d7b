"""A saved model on the ranks of a layout: how many it needs, what is refused, and that each rank reads its own part only."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hexareme.conf.compose import as_dict, compose
from hexareme.conf.errors import ConfigError
from hexareme.conf.schema import ContextAttention, LayoutConfig, PipelineSchedule
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.errors import CheckpointError
from hexareme.core.inference import fragments_of, load_trained, model_config
from hexareme.core.inference_layout import inference_problems, needed_ranks
from hexareme.core.model.build import build_model
from hexareme.core.relay import Pipeline
from hexareme.core.rendezvous import alone
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.partition_module import placed_parameters
from hexareme.parallel.topology import Topology
from hypothesis import given
from hypothesis import strategies as st

from ..ranks import run_ranks, run_single

CONFIG = compose("train", ["experiment=debug", "data.train=unread", "model.num_layers=6", "model.hidden_size=256", "model.vocab_size=4095",
                           "model.ffn_hidden_size=3072", "model.num_kv_heads=2", "model.tie_embeddings=false"])
degrees = st.sampled_from([1, 2, 3, 4])


@given(degrees, degrees, degrees, degrees, st.integers(1, 200))
def test_the_needed_ranks_are_the_fewest_that_fit(tp: int, pp: int, cp: int, ep: int, world_size: int) -> None:
    layout = LayoutConfig(tp=tp, pp=pp, cp=cp, ep=ep)
    assert Topology.divide(world_size=needed_ranks(layout), tp=tp, pp=pp, cp=cp, ep=ep).tp == tp
    if world_size < needed_ranks(layout):
        with pytest.raises(ValueError, match="must divide"):
            Topology.divide(world_size=world_size, tp=tp, pp=pp, cp=cp, ep=ep)


@pytest.mark.parametrize("schedule", PipelineSchedule)
@pytest.mark.parametrize("pp", [1, 2, 3])
def test_every_schedule_is_a_valid_layout_of_a_forward_pass(schedule: PipelineSchedule, pp: int) -> None:
    """No rule of a training step's micro-batches stands in its way."""
    layout = LayoutConfig(pp=pp, schedule=schedule, virtual_stages=2 if "interleaved" in schedule and pp > 1 else 1)
    assert not inference_problems(layout, CONFIG.model, needed_ranks(layout))
    assert not inference_problems(layout, CONFIG.model, 4 * needed_ranks(layout))


@pytest.mark.parametrize(("layout", "said"), [
    (LayoutConfig(tp=3), "does not divide model.num_heads=4"),
    (LayoutConfig(cp=3), "is not divisible into 6 equal pieces"),
    (LayoutConfig(cp=8, context_attention=ContextAttention.ulysses), "does not divide the 4 heads"),
    (LayoutConfig(ep=2), "model.num_experts=0"),
    (LayoutConfig(pp=7), "model.num_layers=6"),
    (LayoutConfig(pp=2, stage_layers=[5, 2]), "add up to model.num_layers=6"),
])
def test_a_layout_that_does_not_fit_the_model_is_refused_with_the_nearest(layout: LayoutConfig, said: str) -> None:
    problems = inference_problems(layout, CONFIG.model, needed_ranks(layout))
    assert any(said in problem.what for problem in problems)
    assert all("nearest valid layout" in problem.do or "parallel." in problem.do for problem in problems)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some tens of megabytes, so that it fills several of the checkpoint's blocks."""
    folder = tmp_path_factory.mktemp("saved")

    def save(rank: int) -> Path:
        groups = ParallelContext.create(Topology(), rank).layer_groups()
        model = build_model(CONFIG.model, seed=3, groups=groups, device="cpu")
        whole = as_dict(CONFIG)
        return Checkpointer(folder, keep=1, rank=0, world_size=1, agree=bool).save(
            step=1, samples_seen=8, config={"model": whole["model"], "data": whole["data"]}, extra={},
            fragments=[replace(each, write=True) for each in fragments_of(model)])

    path = run_single(save)
    assert isinstance(path, Path)
    return path


CUT = {"pp2": LayoutConfig(pp=2), "pp2 zbv x tp2": LayoutConfig(pp=2, schedule=PipelineSchedule.zbv, tp=2), "tp4": LayoutConfig(tp=4)}


@pytest.mark.parametrize("layout", CUT.values(), ids=CUT)
def test_each_rank_gets_its_own_part(checkpoint: Path, layout: LayoutConfig) -> None:
    """Element by element what the whole model is drawn as on one process; a rank of a pipeline reads about its half."""
    def rank(number: int) -> tuple[int, bool]:
        trained = load_trained(checkpoint, layout, device=torch.device("cpu"))
        stages = trained.model.stages if isinstance(trained.model, Pipeline) else [trained.model.transformer]
        for stage in stages:
            drawn = build_model(CONFIG.model, seed=3, groups=stage.groups, device="cpu", stage=stage.stage)
            for mine, wanted in zip(placed_parameters(stage), placed_parameters(drawn), strict=True):
                assert mine.name == wanted.name
                assert mine.copy or torch.equal(mine.parameter, wanted.parameter), mine.name
        return trained.loaded.bytes, trained.model.training

    found = run_ranks(rank, needed_ranks(layout))
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert not any(training for _, training in found)
    if layout.pp > 1 and layout.schedule is PipelineSchedule.one_f_one_b:
        assert all(count < 0.8 * size for count, _ in found)


def test_a_model_that_does_not_fit_its_ranks_is_refused_by_the_load(checkpoint: Path) -> None:
    def rank(number: int) -> None:
        with pytest.raises(ConfigError, match="parallel.tp=3"):
            load_trained(checkpoint, LayoutConfig(tp=3), device=torch.device("cpu"))

    run_ranks(rank, 3)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    def rank(number: int) -> None:
        groups = ParallelContext.create(Topology(), number).layer_groups()
        model = build_model(CONFIG.model, seed=3, groups=groups, device="cpu")
        whole = as_dict(CONFIG)
        Checkpointer(tmp_path, keep=1, rank=0, world_size=1, agree=bool).save(
            step=1, samples_seen=8, config={"model": whole["model"] | {"num_layers": 5}, "data": whole["data"]}, extra={},
            fragments=[replace(each, write=True) for each in fragments_of(model)])
        with pytest.raises(CheckpointError):  # it holds a sixth block, which would be left out in silence
            load_trained(tmp_path / "step-00000001", LayoutConfig(), device=torch.device("cpu"))

    run_single(rank)


def test_a_process_alone_needs_no_port() -> None:
    def child(rank: int) -> None:
        dist.destroy_process_group()
        with alone():
            assert dist.get_world_size() == 1
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # which the frame of the test takes down

    run_single(child)


def test_a_key_that_came_after_the_checkpoint_keeps_its_default(checkpoint: Path) -> None:
    class Old:
        folder = checkpoint
        config = {"model": {key: value for key, value in as_dict(CONFIG)["model"].items() if "expert" not in key and "router" not in key}}

    assert model_config(Old()) == CONFIG.model
