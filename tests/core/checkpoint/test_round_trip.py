"""Any layout to any layout, judged by torch's split and chunk, and by safetensors' own reader."""

import json
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.errors import CheckpointError
from hexareme.parallel.partition import ShardSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from .layouts import Cut, Layout, fragments, local_flat, small_state
from .ranks import alone, on_threads

LAYOUTS = st.builds(Layout, st.integers(1, 4), st.integers(1, 4))


def save(directory: Path, state, cuts, layout: Layout, step: int = 10, keep: int = 2) -> Path:
    def action(checkpointer, rank):
        held = local_flat(state, cuts, layout, rank)
        parts = fragments(held, layout, rank)
        return checkpointer.save(step=step, samples_seen=8 * step, config={"lr": 0.1}, extra={"scale": 2.0}, fragments=parts)

    paths = on_threads(layout.world_size, directory, action, keep)
    errors = [path for path in paths if isinstance(path, Exception)]
    if errors:
        raise errors[0]
    return paths[0]


@st.composite
def states(draw):
    state, cuts = {}, []
    for index in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["whole", "parts", "padded"]))
        shape = draw(st.lists(st.integers(1, 6), min_size=0 if how == "whole" else 1, max_size=3))
        dim = draw(st.integers(0, max(len(shape) - 1, 0)))
        parts = tuple(12 * k for k in draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))) if how == "parts" else ()
        if parts:
            shape[dim] = sum(parts)
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
        state[f"t{index}"] = torch.randint(-99, 99, shape).to(dtype) if shape else torch.tensor(float(index), dtype=dtype)
        cuts.append(Cut(f"t{index}", how, dim, parts))
    return state, cuts


def safetensors_whole(folder: Path) -> dict[str, torch.Tensor]:
    """Put a checkpoint together with nothing but json and safetensors' reader."""
    tensors = {}
    for entry in json.loads((folder / "manifest.json").read_bytes())["tensors"]:
        whole = torch.full(entry["shape"], float("nan")).to(getattr(torch, entry["dtype"]))
        for part in entry["slices"]:
            with safe_open(folder / part["file"], "pt") as file:
                content = file.get_tensor(f"{entry['name']}:{entry['kind']}:{','.join(map(str, part['starts']))}")
            whole[tuple(slice(a, a + n) for a, n in zip(part["starts"], part["shape"], strict=True))] = content
        tensors[entry["name"]] = whole
    return tensors


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(states(), LAYOUTS, LAYOUTS)
def test_any_layout_to_any_layout(state_and_cuts, before, after):
    state, cuts = state_and_cuts
    # torch.cat makes the ZeRO buffers; mixed element types lie in one list of ranges all the same
    with TemporaryDirectory() as directory:
        folder = save(Path(directory), state, cuts, before)
        assert all(safetensors_whole(folder)[name].equal(tensor) for name, tensor in state.items())
        checkpoint = Checkpoint.open(folder)
        for rank in range(after.world_size):
            held = local_flat(state, cuts, after, rank)
            live = fragments(held, after, rank, blank=True)
            report = checkpoint.load(live, names=set(state))
            assert all(fragment.tensor.equal(elements) for fragment, (_, _, _, elements) in zip(live, held, strict=True))
            assert report.tensors == len({fragment.name for fragment in live})
        for name, tensor in state.items():
            assert checkpoint.read_tensor(name).equal(tensor)


def test_what_is_saved_beside_the_tensors(tmp_path):
    state, cuts = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(2, 2), step=123456789))
    assert checkpoint.folder.name == "step-123456789"
    assert (checkpoint.step, checkpoint.samples_seen) == (123456789, 987654312)
    assert (checkpoint.config, checkpoint.extra) == ({"lr": 0.1}, {"scale": 2.0})
    assert (tmp_path / "latest").read_text() == "step-123456789\n"
    assert {path.name for path in tmp_path.iterdir()} == {"step-123456789", "latest"}
    assert {path.suffix for path in checkpoint.folder.iterdir()} == {".json", ".safetensors"}


def test_block_borders_inside_elements_of_a_large_cut(tmp_path, monkeypatch):
    """24 MB over blocks of 16 MiB: slices start and end inside blocks, and a column cut spans them."""
    weight = torch.arange(6 * 2**20, dtype=torch.float32).view(2048, 3072)
    state, cut = {"w": weight}, [Cut("w", "parts", 1, (3072,))]
    checkpoint = Checkpoint.open(save(tmp_path, state, cut, Layout(1, 1)))
    assert len(checkpoint.manifest.files["rank-00000.safetensors"].blocks) == 2
    for rank in range(6):
        held = local_flat(state, cut, Layout(3, 2), rank)
        live = fragments(held, Layout(3, 2), rank, blank=True)
        report = checkpoint.load(live)
        assert live[0].tensor.equal(held[0][3])
    assert 0 < report.bytes <= checkpoint.manifest.files["rank-00000.safetensors"].size  # each block once


def test_only_touched_blocks_are_read(tmp_path):
    state = {"a": torch.zeros(2**22), "b": torch.ones(2**22)}
    cuts = [Cut(name, "whole", 0, ()) for name in state]
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(1, 1)))
    one = Fragment("b", "parameter", ShardSpec.whole((2**22,)), 2**22 - 10, torch.zeros(10))
    assert checkpoint.load([one]).bytes < 16 * 2**20
    assert one.tensor.eq(1).all()


def test_conversion_between_floating_types_is_reported(tmp_path):
    state, cuts = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(1, 1)))
    live = Fragment("qkv", "parameter", ShardSpec.whole((24, 8)), 0, torch.zeros(192, dtype=torch.bfloat16))
    report = checkpoint.load([live])
    assert report.converted == {"float32 -> bfloat16": 1}
    assert "1 as float32 -> bfloat16" in report.summary()
    assert live.tensor.equal(state["qkv"].to(torch.bfloat16).view(-1))
    with pytest.raises(CheckpointError, match="qkv is float32 in the checkpoint and int64 here"):
        checkpoint.load([Fragment("qkv", "parameter", ShardSpec.whole((24, 8)), 0, torch.zeros(192, dtype=torch.int64))])


def test_loading_goes_into_leaves_that_require_gradients_and_leaves_the_rest_alone(tmp_path):
    state, cuts = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(1, 1)))
    parameter = torch.nn.Parameter(torch.zeros(24, 8))
    buffer = torch.full((30,), 5.0)
    live = [
        Fragment("qkv", "parameter", ShardSpec.whole((24, 8)), 0, parameter.detach().view(-1)),
        Fragment("qkv", "parameter", ShardSpec.whole((24, 8)), 50, buffer[10:20], write=False),
    ]
    checkpoint.load(live)
    assert parameter.detach().equal(state["qkv"])
    assert buffer[10:20].equal(state["qkv"].view(-1)[50:60])
    assert buffer[:10].eq(5).all() and buffer[20:].eq(5).all()


def test_kinds_select_the_weights(tmp_path):
    weight, moment = torch.randn(6), torch.randn(6)
    spec = ShardSpec.whole((6,))
    both = [Fragment("w", "parameter", spec, 0, weight), Fragment("w", "exp_avg", spec, 0, moment)]
    folder = alone(tmp_path).save(step=1, samples_seen=1, config={}, extra={}, fragments=both)
    live = [Fragment("w", "parameter", spec, 0, torch.zeros(6)), Fragment("w", "exp_avg", spec, 0, torch.zeros(6))]
    report = Checkpoint.open(folder).load(live, kinds={"parameter"})
    assert live[0].tensor.equal(weight) and live[1].tensor.eq(0).all()
    assert (report.tensors, report.slices) == (1, 1)
    assert Checkpoint.open(folder).read_tensor("w", "exp_avg").equal(moment)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "message"),
    [
        ("other", "parameter", (8,), r"other \[8\] is not in the checkpoint"),
        ("norm", "exp_avg", (8,), r"norm \(exp_avg\) \[8\] is not in the checkpoint"),
        ("norm", "parameter", (9,), r"norm is \[8\] in the checkpoint and \[9\] here"),
        ("qkv", "parameter", (8, 24), r"qkv is \[24, 8\] in the checkpoint and \[8, 24\] here"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(tmp_path, name, kind, shape, message):
    state, cuts = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(2, 1)))
    live = Fragment(name, kind, ShardSpec.whole(shape), 0, torch.zeros(prod(shape)))
    with pytest.raises(CheckpointError, match=f"of another model: {message}") as caught:
        checkpoint.load([live])
    assert "config.yaml" in caught.value.do
    assert live.tensor.eq(0).all()


def test_a_saved_parameter_that_the_model_lacks_is_refused(tmp_path):
    state, cuts = small_state()
    checkpoint = Checkpoint.open(save(tmp_path, state, cuts, Layout(1, 1)))
    with pytest.raises(CheckpointError, match=r"output \[8, 12\] of the checkpoint is not in the model; norm .*; and 0 more|output .*norm"):
        checkpoint.load([], names={"embedding", "qkv", "scale"})
    with pytest.raises(CheckpointError, match="holds no exp_avg qkv"):
        checkpoint.read_tensor("qkv", "exp_avg")


def test_a_hole_or_an_overlap_between_ranks_is_refused(tmp_path):
    def action(checkpointer, rank):
        start = rank * shift
        part = Fragment("w", "parameter", ShardSpec.whole((20,)), start, torch.zeros(10))
        checkpointer.save(step=1, samples_seen=1, config={}, extra={}, fragments=[part])

    for shift in (9, 10):
        errors = on_threads(2, tmp_path, action)
        if shift == 10:
            assert errors == [None, None]
        else:
            assert all(isinstance(error, CheckpointError) and "w (parameter) is not covered exactly once" in str(error) for error in errors)
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [((10, 11), "rank 1 saves step 11, rank 0 saves step-00000010"), ((10, 10), "rank 0 saves samples_seen 7, rank 1 saves 8")],
)
def test_ranks_that_disagree_do_not_commit(tmp_path, steps, message):
    def action(checkpointer, rank):
        checkpointer.save(step=steps[rank], samples_seen=7 + rank, config={}, extra={}, fragments=[])

    errors = on_threads(2, tmp_path, action)
    assert all(isinstance(error, CheckpointError) and message in str(error) for error in errors), errors
    assert list(tmp_path.iterdir()) == []
