"""Forward only through the stages of a pipeline: generation and loss as of the whole model, under every placement."""

from dataclasses import replace

import pytest
import torch
from hexareme.conf.schema import ModelConfig
from hexareme.core.generation import generate, generate_batch
from hexareme.core.inputs import MicroBatch
from hexareme.core.loss import LossModel
from hexareme.core.model.build import build_model
from hexareme.core.model.transformer import Transformer
from hexareme.core.relay import Pipeline
from hexareme.core.sampling import Sampling
from hexareme.parallel.context import LayerGroups, ParallelContext
from hexareme.parallel.stages import Placement, balanced, stages_of
from hexareme.parallel.topology import Topology

from ..ranks import RankError, run_ranks, run_single, world
from .reference import GPT2, LLAMA3, batch

CONFIGS = {"gpt2": replace(GPT2, num_layers=9, dropout=0.1), "llama": replace(LLAMA3, num_layers=9)}
PROMPTS = [[5, 17, 200, 31, 8], [9], [250, 4, 3, 2, 1, 0, 77, 31]]
PLACEMENTS = {  # tensor degree, placement
    "a stage on each of 2": (1, Placement(2)), "a stage on each of 4": (1, Placement(4)), "interleaved on 2": (1, Placement(2, 3)),
    "V on 2": (1, Placement(2, 2, v_shaped=True)), "V on 4": (1, Placement(4, 2, v_shaped=True)),
    "V on 2, TP2": (2, Placement(2, 2, v_shaped=True)),
}


def micro(config: ModelConfig, number: int) -> MicroBatch:
    """A micro-batch of its own shape, and a mask that differs from token to token."""
    inputs = batch(config, samples=1 + number % 3, length=40)
    mask = torch.rand(inputs.tokens_BS.shape, generator=torch.Generator().manual_seed(number)) < 0.7
    return MicroBatch(inputs, inputs.tokens_BS.roll(-1, 1), mask.float())


def outcome(model: Transformer | Pipeline, scored: LossModel | Pipeline, config: ModelConfig) -> tuple[object, ...]:
    """Greedy text of one prompt, sampled text of several, and the summed losses of no, one and many micro-batches."""
    alone = list(generate(model, PROMPTS[0], max_new_tokens=12, temperature=0.0))
    together = list(generate_batch(model, PROMPTS, max_new_tokens=12, sampling=Sampling(temperature=0.9, top_k=40, seed=3)))
    assert model.training
    scored.eval()
    seen: list[int] = []
    with torch.no_grad():
        sums = [scored.loss_sums(count, lambda number: micro(config, number), seen.append).tolist() for count in (1, 2, 11)]
    assert seen == [1, 1, 2, *range(1, 12)]
    return alone, together, sums


def whole(_: int, config: ModelConfig) -> tuple[object, ...]:
    model = build_model(config, seed=3, groups=LayerGroups.of_tensor_axis(world()), device="cpu")
    return outcome(model, LossModel(model), config)


def cut(rank: int, config: ModelConfig, tp: int, placement: Placement) -> tuple[object, ...]:
    context = ParallelContext.create(Topology(tp=tp, pp=placement.pp), rank)
    plan = stages_of(balanced([1.0] * config.num_layers, placement.num_stages))
    stages = [build_model(config, seed=3, groups=context.layer_groups(), device="cpu", stage=plan[index])
              for index in placement.held_by(context.pipeline.rank())]
    pipeline = Pipeline(stages, placement, context.pipeline)
    return outcome(pipeline, pipeline, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_placement_says_and_scores_what_the_whole_model_does(name: str) -> None:
    config = CONFIGS[name]
    alone, together, sums = run_single(whole, config)
    for tp, placement in PLACEMENTS.values():
        for found in run_ranks(cut, tp * placement.pp, config, tp, placement):
            assert found[0] == alone
            assert found[1] == together
            torch.testing.assert_close(found[2], sums, rtol=1e-6, atol=0.0)


def test_stages_on_the_wrong_rank_are_noticed() -> None:
    def rank(number: int) -> None:
        placement, context = Placement(2), ParallelContext.create(Topology(pp=2), number)
        plan = stages_of([1, 1])
        Pipeline([build_model(GPT2, seed=3, groups=context.layer_groups(), device="cpu", stage=plan[1 - number])], placement,
                 context.pipeline)

    with pytest.raises(RankError, match="was given stages"):
        run_ranks(rank, 2)


def test_a_sequence_on_several_ranks_cannot_be_continued() -> None:
    def rank(number: int) -> None:
        context = ParallelContext.create(Topology(cp=2), number)
        with pytest.raises(ValueError, match="set parallel.cp=1"):
            list(generate(build_model(GPT2, seed=3, groups=context.layer_groups(), device="cpu"), [1, 2], max_new_tokens=2))

    run_ranks(rank, 2)
