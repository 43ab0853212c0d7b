"""What a layout says each rank holds is what the ranks do hold, and the picture shows it."""

from collections import Counter
from dataclasses import replace

import pytest
from hexareme.conf.compose import compose
from hexareme.conf.schema import ContextAttention, PipelineSchedule
from hexareme.core.engine.optimizer import parameter_groups
from hexareme.core.held_parameters import held_parameters
from hexareme.core.held_state import replica_groups
from hexareme.core.holdings import Layout
from hexareme.core.model.build import build_model
from hexareme.core.picture import MOST_RANKS, headline, picture
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.partition_module import placed_parameters
from hexareme.parallel.sequence_cut import places
from hypothesis import given, settings
from hypothesis import strategies as st

from ..ranks import run_ranks


def config_of(*overrides: str):
    return compose("plan", ["experiment=debug", *overrides])


def layout_of(world_size: int, *overrides: str, ranks_per_node: int = 0) -> Layout:
    return Layout.of(config_of(*overrides), world_size=world_size, ranks_per_node=ranks_per_node or world_size)


LLAMA = ("model.positions=rope", "model.normalization=rmsnorm", "model.activation=swiglu", "model.bias=false", "model.num_kv_heads=2",
         "model.tie_embeddings=false", "model.vocab_size=509")
EXPERTS = ("model.num_experts=4", "model.dense_layers=1", "model.num_shared_experts=1", "model.expert_ffn_hidden_size=96",
           "model.router_balance=bias")
# what is held, on real ranks: name -> (ranks, overrides)
HELD = {
    "one": (1, ()),
    "tp2": (2, ("parallel.tp=2", "model.vocab_size=509")),
    "tp4, kv heads shared, untied": (4, ("parallel.tp=4", *LLAMA)),
    "pp2 x tp2, tied": (4, ("parallel.pp=2", "parallel.tp=2", "model.num_layers=5")),
    "pp2, V-shaped, tied": (2, ("parallel.pp=2", "parallel.schedule=zbv", "model.num_layers=7")),
    "pp2, interleaved": (2, ("parallel.pp=2", "parallel.schedule=interleaved_1f1b", "parallel.virtual_stages=2", "model.num_layers=6",
                             *LLAMA)),
    "ep2 x tp2": (4, ("parallel.ep=2", "parallel.tp=2", *EXPERTS)),
    "ep2, swiglu experts": (2, ("parallel.ep=2", *LLAMA, *EXPERTS)),
}


@pytest.mark.parametrize("case", HELD)
def test_the_counted_parameters_are_those_of_the_ranks(case: str) -> None:
    """Against the models that the ranks build, name by name: elements, experts, and copies of a tied head."""
    world_size, overrides = HELD[case]
    config = config_of(*overrides)
    layout = Layout.of(config, world_size=world_size, ranks_per_node=world_size)

    def rank(number: int) -> tuple[Counter, set[str], set[str], list[list[int]]]:
        context = ParallelContext.create(layout.topology, number)
        stages = layout.stages_of(context.coordinate.pp)
        models = [build_model(config.model, seed=0, groups=context.layer_groups(), device="meta", stage=stage) for stage in stages]
        if len(stages) > 1 and stages[0].first and stages[-1].last and config.model.tie_embeddings:
            models[-1].head.weight = models[0].embedding.tokens.weight  # on one rank a tied weight is one parameter
        sizes, experts, copies = Counter(), set(), set()
        by_id: dict = {}
        for each in (each for model in models for each in placed_parameters(model)):
            by_id.setdefault(id(each.parameter), each)
        for each in (placed := list(by_id.values())):
            sizes[each.name] += each.parameter.numel()
            experts |= {each.name} if each.expert else set()
            copies |= {each.name} if each.copy and each.name.startswith("embedding") else set()
        updated = [each for each in placed if not (each.copy and each.name.startswith("embedding"))]
        groups = parameter_groups(updated, config.optimizer, experts_apart=config.parallel.ep > 1)
        return sizes, experts, copies, [[parameter.numel() for parameter in group["params"]] for group in groups]

    for number, (sizes, experts, copies, groups) in enumerate(run_ranks(rank, world_size)):
        held = held_parameters(config.model, layout.holding(number).stages, tp=config.parallel.tp, ep=config.parallel.ep)
        counted: Counter = Counter()
        for each in held:
            counted["embedding.tokens.weight" if each.copy else each.name] += each.size
        assert counted == sizes
        assert {each.name for each in held if each.expert} == experts
        assert len([each for each in held if each.copy]) == len(copies)
        assert [list(group.sizes) for _, group in replica_groups(config, held, replicas=layout.replicas)] == groups


def test_the_whole_of_a_known_model() -> None:
    """Meta's own count of Llama 3 8B."""
    model = compose("plan", ["experiment=llama_8b"]).model
    layout = layout_of(1, "model=llama_8b")
    assert sum(each.size for each in held_parameters(model, layout.stages)) == 8_030_261_248


BASE = config_of("model.num_layers=9", "model.num_experts=8", "model.vocab_size=510", "model.num_kv_heads=2")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    tp, pp, cp, dp = (draw(st.sampled_from([1, 2, 4])) for _ in range(4))
    ep = draw(st.sampled_from([each for each in (1, 2, 4) if dp * cp % each == 0]))
    schedule = draw(st.sampled_from([PipelineSchedule.one_f_one_b, PipelineSchedule.zbv]))
    kind = draw(st.sampled_from(ContextAttention))
    parallel = replace(BASE.parallel, tp=tp, pp=pp, cp=cp, ep=ep, schedule=schedule, context_attention=kind)
    return Layout.of(replace(BASE, parallel=parallel), world_size=tp * pp * cp * dp, ranks_per_node=draw(st.sampled_from([1, 2, 3, 8])))


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_every_model_replica_holds_everything_once(layout: Layout) -> None:
    t, model = layout.topology, layout.model
    holdings = [layout.holding(rank) for rank in range(t.world_size)]
    for ranks in t.ranks_along("pp", "tp"):
        held = [holdings[rank] for rank in ranks]
        cells = Counter((layer, head) for each in held for stage in each.stages for layer in stage.layers for head in each.heads)
        assert cells == Counter((layer, head) for layer in range(model.num_layers) for head in range(model.num_heads))
        for end in ("first", "last"):
            rows = [row for each in held if any(getattr(stage, end) for stage in each.stages) for row in each.vocabulary]
            assert sorted(rows) == list(range(model.vocab_size))
        for each in held:  # a query head finds its kv head on its own rank
            assert {head * model.num_kv_heads // model.num_heads for head in each.heads} == set(each.kv_heads)
    for ranks in t.ranks_along("cp"):
        tokens = [token for rank in ranks for run in holdings[rank].tokens for token in run]
        assert sorted(tokens) == list(range(model.sequence_length))
        for rank in ranks:
            wanted = places(model.sequence_length, cp=t.cp, rank=holdings[rank].coordinate.cp, kind=layout.context_attention)
            assert [token for run in holdings[rank].tokens for token in run] == wanted
    for ranks in t.ranks_along("ep"):
        assert sorted(expert for rank in ranks for expert in holdings[rank].experts) == list(range(model.num_experts))
    for ranks in t.ranks_along("dp", "cp"):
        assert [holdings[rank].share for rank in ranks] == list(range(layout.replicas))
    assert layout.inside_nodes("tp") == all(len({holdings[rank].node for rank in ranks}) == 1 for ranks in t.ranks_along("tp"))


@settings(max_examples=25, deadline=None)
@given(layouts())
def test_a_small_picture_has_a_line_for_each_rank(layout: Layout) -> None:
    text = picture(layout)
    assert text.startswith(headline(layout)[0])
    if layout.topology.world_size <= MOST_RANKS:
        assert [line.split()[0] for line in text.split("\n\n")[1].splitlines()[1:]] == [str(r) for r in range(layout.topology.world_size)]


def test_a_picture_in_full() -> None:
    assert picture(layout_of(4, "parallel.tp=2", "parallel.pp=2", "model.num_layers=7", "model.vocab_size=509", ranks_per_node=2)) == """\
4 ranks on 2 nodes: pp 2 x tp 2; ZeRO-1: optimizer state in 1 piece
tp inside a node; pp across nodes

rank  node  pp  tp  stages                    heads  vocabulary
0     0     0   0   0: embedding, layers 0-3  0-1    0-254
1     0     0   1   0: embedding, layers 0-3  2-3    255-508
2     1     1   0   1: layers 4-6, head       0-1    0-254
3     1     1   1   1: layers 4-6, head       2-3    255-508"""


def test_thousands_of_ranks_fit_a_page() -> None:
    text = picture(layout_of(8192, "model=llama_70b", "parallel.tp=8", "parallel.pp=16", "parallel.cp=2", ranks_per_node=8))
    lines = text.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 140
    assert lines[0].startswith("8192 ranks on 1024 nodes: pp 16 x dp 32 x cp 2 x tp 8; ZeRO-1")
    assert "tp inside a node" in text and "..." in text
    assert "pp 15     15: layers 76-79, head" in text
    assert "8184-8191 @1023" in text  # the last tensor group
    assert "cp 1     2048-4095, 4096-6143" in text


def test_a_tensor_axis_over_nodes_is_warned_of() -> None:
    assert any(line.startswith("WARNING: the tensor axis leaves the node: parallel.tp=4")
               for line in headline(layout_of(8, "parallel.tp=4", ranks_per_node=2)))
    assert not any("WARNING" in line for line in headline(layout_of(8, "parallel.tp=4", ranks_per_node=4)))
