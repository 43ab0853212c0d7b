"""Plain weights: any layout's slices become whole safetensors files; nothing unverified, nothing half-made, never the whole in memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from hexareme.core.checkpoint.accounting import settle
from hexareme.core.checkpoint.export import export
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.errors import CheckpointError, StorageError
from hexareme.parallel.partition import ShardSpec
from safetensors import safe_open
from safetensors.torch import load_file

from tests.core.checkpoint.ranks import alone

SHAPES = {"embedding": (64, 24), "up": (96, 24), "down": (24, 96), "norm": (24,), "scale": ()}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory) -> Checkpoint:
    """Weights cut as tensor parallelism and ZeRO cut them, with a moment and a buffer beside them."""
    fragments = []
    for name, tensor in state.items():
        whole = ShardSpec.whole(tensor.shape)
        third = tensor.numel() // 3
        cuts = [(0, third), (third, tensor.numel())] if tensor.numel() > 1 else [(0, 1)]
        for begin, end in cuts:
            for kind in ("parameter", "exp_avg"):
                fragments.append(Fragment(name, kind, whole, begin, tensor.reshape(-1)[begin:end].clone()))
    fragments.append(Fragment("router.bias", "buffer", ShardSpec.whole((4,)), 0, torch.arange(4.0)))
    directory = tmp_path_factory.mktemp("run")
    folder = alone(directory).save(step=7, samples_seen=28, config={"model": {"layers": 2}}, extra={}, fragments=fragments)
    return Checkpoint.open(folder)


def test_one_file_equals_the_state(saved, state, tmp_path):
    done = export(saved, tmp_path / "weights.safetensors", shard_bytes=1)
    loaded = load_file(tmp_path / "weights.safetensors")
    assert loaded.keys() == {*state, "router.bias"} and done.tensors == len(loaded)
    assert all(loaded[name].equal(tensor) for name, tensor in state.items())
    assert yaml.safe_load((tmp_path / "weights.config.yaml").read_text()) == {"step": 7, "samples_seen": 28, "model": {"layers": 2}}
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert sorted(os.listdir(tmp_path)) == ["weights.config.yaml", "weights.safetensors"]


def test_shards_have_an_index(saved, state, tmp_path):
    done = export(saved, tmp_path / "weights", shard_bytes=10_000)
    index = json.loads((tmp_path / "weights" / "model.safetensors.index.json").read_text())
    assert len(done.files) > 1 and index["metadata"]["total_size"] == done.bytes == sum(t.numel() * 4 for t in state.values()) + 16
    for name, tensor in state.items():
        assert load_file(tmp_path / "weights" / index["weight_map"][name])[name].equal(tensor)
    assert {file.name for file in done.files} == set(index["weight_map"].values())
    assert all(f"-of-{len(done.files):05d}.safetensors" in file.name for file in done.files)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_element_type(saved, state, tmp_path, dtype):
    export(saved, tmp_path / "w.safetensors", shard_bytes=1, dtype=dtype)
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(loaded[name].equal(tensor.to(getattr(torch, dtype))) for name, tensor in state.items())


def test_numbers_that_the_type_cannot_hold_are_refused(tmp_path):
    folder = alone(tmp_path / "run").save(step=1, samples_seen=1, config={}, extra={},
                                          fragments=[Fragment("w", "parameter", ShardSpec.whole((2,)), 0, torch.tensor([1.0, 1e6]))])
    with pytest.raises(CheckpointError, match="float16 cannot"):
        export(Checkpoint.open(folder), tmp_path / "w.safetensors", shard_bytes=1, dtype="float16")
    assert os.listdir(tmp_path) == ["run"]


def test_a_damaged_block_leaves_nothing(state, tmp_path):
    fragments = [Fragment(name, "parameter", ShardSpec.whole(tensor.shape), 0, tensor.reshape(-1)) for name, tensor in state.items()]
    folder = alone(tmp_path / "run").save(step=1, samples_seen=1, config={}, extra={}, fragments=fragments)
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        export(Checkpoint.open(folder), tmp_path / "weights", shard_bytes=1000)
    assert os.listdir(tmp_path) == ["run"]


def test_what_is_there_is_not_replaced(saved, tmp_path):
    (tmp_path / "weights").mkdir()
    with pytest.raises(StorageError, match="exists"):
        export(saved, tmp_path / "weights", shard_bytes=1000)


BIG = """
import resource, sys
from pathlib import Path
from hexareme.core.checkpoint.export import export
from hexareme.core.checkpoint.reader import Checkpoint
checkpoint = Checkpoint.open(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
export(checkpoint, Path(sys.argv[2]), shard_bytes=2**40)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """400 MB in one tensor, cut in two."""
    whole = torch.rand(10_000, 10_000)
    flat, cut = whole.view(-1), 33_333_333
    fragments = [Fragment("w", "parameter", ShardSpec.whole(whole.shape), begin, flat[begin:end])
                 for begin, end in ((0, cut), (cut, 10**8))]
    return alone(tmp_path_factory.mktemp("big")).save(step=1, samples_seen=1, config={}, extra={}, fragments=fragments)


def test_the_whole_is_never_in_memory(big, tmp_path):
    """Three blocks of 16 MiB and what converts them, not the 400 MB."""
    out = subprocess.run([sys.executable, "-c", BIG, str(big), str(tmp_path / "w")], capture_output=True, text=True, check=True).stdout
    grown = int(out.splitlines()[-1])
    assert grown < 120e6, f"{grown / 1e6:.0f} MB"
    assert load_file(tmp_path / "w" / "model.safetensors")["w"].equal(Checkpoint.open(big).read_tensor("w"))


@pytest.mark.parametrize("after", [0.02, 0.1])
def test_a_kill_leaves_nothing_under_the_final_name(big, tmp_path, after):
    process = subprocess.Popen([sys.executable, "-c", BIG, str(big), str(tmp_path / "w")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    if process.returncode:
        assert not (tmp_path / "w").exists()
    else:
        assert load_file(tmp_path / "w" / "model.safetensors")["w"].shape == (10_000, 10_000)


def account(saved: Checkpoint, fragments: list[Fragment]):
    """As one rank of one settles what it loaded."""
    report = saved.load(fragments, kinds={"parameter"})
    return settle(report.tally, saved.manifest.tensors, saved.folder, kinds={"parameter"}, add_up=lambda numbers: numbers)


def whole_of(saved: Checkpoint) -> list[Fragment]:
    return [Fragment(t.name, t.kind, ShardSpec.whole(t.shape), 0, torch.zeros(t.shape).view(-1))
            for t in saved.manifest.tensors if t.kind == "parameter"]


def test_an_account_says_that_all_was_filled_once(saved, state):
    copy = Fragment("up", "parameter", ShardSpec.whole(SHAPES["up"]), 0, torch.zeros(96 * 24), write=False)
    found = account(saved, [*whole_of(saved), copy])
    elements = sum(tensor.numel() for tensor in state.values())
    assert f"{len(state)} tensors filled exactly once, {elements:,} elements" in found.line()
    assert f"{96 * 24:,} elements of copies besides" in found.line() and "rank-00000.safetensors" in found.table()


@pytest.mark.parametrize("fault", ["left out", "a part left out", "twice", "a gap behind an overlap"])
def test_an_account_finds_what_was_not(saved, fault):
    fragments = [fragment for fragment in whole_of(saved) if fragment.name != "down"]
    spec, flat = ShardSpec.whole(SHAPES["down"]), torch.zeros(24 * 96)
    if fault == "a part left out":
        fragments += [Fragment("down", "parameter", spec, 0, flat[:-1])]
    elif fault == "twice":
        fragments += [Fragment("down", "parameter", spec, 0, flat), Fragment("down", "parameter", spec, 0, flat.clone())]
    elif fault == "a gap behind an overlap":
        fragments += [Fragment("down", "parameter", spec, 0, flat[:1000]), Fragment("down", "parameter", spec, 900, flat[:1304])]
    with pytest.raises(CheckpointError, match=r"down \(parameter\)"):
        account(saved, fragments)
