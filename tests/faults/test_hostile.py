"""Rows B4 and B5: files that were made to run code or to fill the memory; nothing of them is executed, everything is bounded."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hexareme.conf.compose import load_yaml
from hexareme.conf.errors import ConfigError
from hexareme.core.audit import SampleLog
from hexareme.core.checkpoint.manifest import BLOCK_BYTES, Manifest, SavedFile, SavedSlice, SavedTensor, render
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.checkpoint.slices import Box
from hexareme.core.errors import CheckpointError, RunError
from hexareme.core.metrics import MetricsLog, read_metrics
from hexareme.core.resume import last_step
from hexareme.data.errors import DataError
from hexareme.data.tokenizer.tokenizer import load_tokenizer
from hexareme.data.tokens.description import read_description
from hexareme.data.tokens.token_file import open_corpus
from hexareme.launcher import cli
from hexareme.launcher.folder.lock_record import parse as parse_lock
from hexareme.launcher.outcome import ExitFile

from tests.launcher.trained import make_corpus

from . import kept
from .kept import NEWEST
from .rig import SLACK

REFUSED = (RunError, DataError, ConfigError, ValueError)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._canary}",)


def as_torch(canary: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"w": Hostile(canary)}, stream)
    return stream.getvalue()


def as_numpy(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Hostile(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


JSON = "JSON with a pickle's text"  # a file that ends in ".json" may hold it: it is text and stays text
FORMS: dict[str, Callable[[Path], bytes]] = {
    "pickle 0": lambda canary: pickle.dumps(Hostile(canary), protocol=0),
    "pickle 4": lambda canary: pickle.dumps(Hostile(canary), protocol=4),
    "torch.save": as_torch,
    "numpy object": as_numpy,
    "YAML object": lambda canary: f"!!python/object/apply:os.system ['touch {canary}']\n".encode(),
    JSON: lambda canary: f'{{"__reduce__": "cos\\nsystem\\n(S\'touch {canary}\'\\ntR."}}\n'.encode(),
}


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(tmp_path: Path, corpus_folder: Path) -> Path:
    """A run folder and a corpus that may be overwritten."""
    kept.copy_kept(tmp_path)
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    for path in (tmp_path / "corpus").glob("*.stamp.json"):
        path.unlink()
    return tmp_path


def load_both(run: Path) -> None:
    for must in (False, True):
        kept.load(run / "checkpoints", must=must)


def cut(log: MetricsLog | SampleLog) -> None:
    with log:
        log.cut_after(1)


# File of the run folder -> what reads it.
READERS: dict[str, Callable[[Path], Any]] = {
    f"checkpoints/{NEWEST}/manifest.json": load_both,
    f"checkpoints/{NEWEST}/rank-00000.safetensors": load_both,
    f"checkpoints/{NEWEST}/.metadata": load_both,
    "checkpoints/latest": load_both,
    "config.yaml": lambda run: load_yaml(run / "config.yaml"),
    "metrics.jsonl": lambda run: (last_step(run / "metrics.jsonl"), cut(MetricsLog(run / "metrics.jsonl"))),
    "metrics.jsonl, read": lambda run: read_metrics(run / "metrics.jsonl"),
    "samples.jsonl": lambda run: cut(SampleLog(run / "samples.jsonl")),
    "exit.json": lambda run: ExitFile(run).read(),
    ".lock": lambda run: parse_lock((run / ".lock").read_bytes()),
    "corpus/corpus.json": lambda run: read_description(run / "corpus"),
    "corpus/train.idx": lambda run: open_corpus(run / "corpus"),
    "corpus/train.bin": lambda run: open_corpus(run / "corpus"),
    "corpus/train.stamp.json": lambda run: open_corpus(run / "corpus"),
    "corpus/tokenizer/description.json": lambda run: load_tokenizer(run / "corpus" / "tokenizer"),
    "corpus/tokenizer/tokenizer.json": lambda run: load_tokenizer(run / "corpus" / "tokenizer"),
}
HARMLESS = {"exit.json", ".lock", "corpus/train.stamp.json", "metrics.jsonl", "metrics.jsonl, read",
            "samples.jsonl"}  # passed over, or cut as torn lines are


@pytest.mark.parametrize("file", READERS)
def test_no_file_runs_code(run, file, tmp_path_factory):
    """B4."""
    canary = tmp_path_factory.mktemp("canary") / "touched"
    path = run / file.partition(",")[0]
    for form, made in FORMS.items():
        path.write_bytes(made(canary))
        try:
            READERS[file](run)
            assert file in HARMLESS or form == JSON, f"{form} in {file} was accepted"
        except REFUSED as error:
            assert str(error), f"{form} in {file}: an error without a word"
        assert not canary.exists(), f"{form} in {file} was executed"


@pytest.mark.parametrize("form", FORMS)
def test_commands_run_no_code(run, form, tmp_path_factory, capsys):
    """B4: what stands in all files at once, through the commands that look at them."""
    canary = tmp_path_factory.mktemp("canary") / "touched"
    for file in READERS:
        (run / file.partition(",")[0]).write_bytes(FORMS[form](canary))
    folder = run / "checkpoints" / NEWEST
    assert cli.main(["inspect", f"checkpoint={folder}", "verify=true"]) in (1, 4)
    assert cli.main(["inspect", f"directory={run}", "verify=true"]) in (1, 4)
    assert cli.main(["convert", f"path={folder}", f"output={run / 'weights'}"]) == 4
    assert cli.main(["report", f"directory={run}"]) == (0 if form == JSON else 2)
    assert "ERROR" in capsys.readouterr().err and not canary.exists() and not (run / "weights").exists()


def test_the_canary_would_be_touched(tmp_path):
    """The mutant: each pickle does what it says where it is unpickled."""
    for number, form in enumerate(("pickle 0", "pickle 4")):
        pickle.loads(FORMS[form](tmp_path / str(number)))
    torch.load(io.BytesIO(as_torch(tmp_path / "2")), weights_only=False)
    np.load(io.BytesIO(as_numpy(tmp_path / "3")), allow_pickle=True)
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]


def tensor(shape: tuple[int, ...], *, dtype: str = "float32", name: str = "w", starts: tuple[int, ...] = (0,)) -> SavedTensor:
    return SavedTensor(name, "parameter", dtype, shape, (SavedSlice("rank-00000.safetensors", 0, Box(starts, shape)),))


def write_hostile(folder: Path, tensors: list[SavedTensor], content: bytes, size: int | None = None) -> None:
    """A folder whose seals and checksums are all right: only what it says is a lie."""
    folder.mkdir(parents=True)
    (folder / "rank-00000.safetensors").write_bytes(content)
    hashes = tuple(xxhash.xxh3_128_hexdigest(content[at : at + BLOCK_BYTES]) for at in range(0, len(content), BLOCK_BYTES))
    saved = SavedFile(len(content) if size is None else size, hashes)

    (folder / "manifest.json").write_bytes(render(Manifest(4, 16, {}, {}, tuple(tensors), {"rank-00000.safetensors": saved})))


ROW = np.arange(1024, dtype=np.float32)
LIES: dict[str, Callable[[Path], None]] = {
    "a larger shape": lambda folder: write_hostile(folder, [tensor((2048,))], ROW.tobytes()),
    "1e15 elements": lambda folder: write_hostile(folder, [tensor((10**15,))], ROW.tobytes()),
    "1e15 elements behind a zero": lambda folder: write_hostile(folder, [tensor((0, 10**15), starts=(0, 0))], ROW.tobytes()),
    "1e15 bytes": lambda folder: write_hostile(folder, [tensor((1024,))], ROW.tobytes(), size=10**15),
    "a dtype that is none": lambda folder: write_hostile_raw(folder, '"float32"', '"object"'),
    "a wider dtype": lambda folder: write_hostile(folder, [tensor((1024,), dtype="float64")], ROW.tobytes()),
    "NaN": lambda folder: write_hostile(folder, [tensor((1024,))], np.where(ROW == 9, np.nan, ROW).astype(np.float32).tobytes()),
    "a name twice": lambda folder: write_hostile(folder, [tensor((512,)), tensor((512,))], ROW.tobytes()),
    "shared bytes": lambda folder: write_hostile(folder, [tensor((1024,)), tensor((1024,), name="v")], ROW.tobytes()),
    "a path out": lambda folder: write_hostile_raw(folder, "rank-00000.safetensors", "../../etc/passwd"),
    "a negative offset": lambda folder: write_hostile_raw(folder, '"offset":0', '"offset":-8'),
    "1e6 tensors": lambda folder: write_hostile_raw(folder, '"tensors":[', '"tensors":[' + ",".join(
        f'{{"dtype":"float32","kind":"x","name":"a{number}","shape":[1],"slices":[]}}' for number in range(10**6)) + ","),
    "1e6 keys": lambda folder: write_hostile_raw(
        folder, '"extra":{}', '"extra":{' + ",".join(f'"a{number}":0' for number in range(10**6)) + "}"),
    "a deep nest": lambda folder: write_hostile_raw(folder, '"extra":{}', '"extra":' + '{"a":' * 10**6 + "0" + "}" * 10**6),
    "a number of 1e6 digits": lambda folder: write_hostile_raw(folder, '"extra":{}', '"extra":{"a":' + "9" * 10**6 + "}"),
}


def write_hostile_raw(folder: Path, old: str, new: str) -> None:
    """A folder whose manifest has other text in it, and the right seal over it."""

    write_hostile(folder, [tensor((1024,))], ROW.tobytes())
    path = folder / "manifest.json"
    text = path.read_text()
    body = (text[: text.rindex(',"sha256"')] + "}").replace(old, new)
    assert body.count(new)
    path.write_text(body[:-1] + f',"sha256":"{sha256(body.encode()).hexdigest()}"}}\n')


LOOK = """
import resource, sys, time
from hashlib import sha256
from pathlib import Path
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.errors import CheckpointError
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    Checkpoint.open(Path(sys.argv[1])).read_tensor("w")
    print("loaded")
except CheckpointError as error:
    print(str(error)[:200].replace(chr(10), " "))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, time.monotonic() - begun)
"""
QUICK = ("NaN", "1e15 elements", "1e15 elements behind a zero", "a dtype that is none", "a name twice", "a path out", "1e15 bytes")


@pytest.mark.parametrize("lie", QUICK)
def test_a_lie_is_refused(tmp_path, lie):
    """B5, what takes no time of it."""
    LIES[lie](tmp_path / NEWEST)
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(tmp_path / NEWEST).read_tensor("w")
    assert raised.value.exit_code == 4 and str(raised.value)


@pytest.mark.nightly
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_time_and_in_bounded_memory(tmp_path, lie):
    """B5."""
    LIES[lie](tmp_path / NEWEST)
    size = sum(path.stat().st_size for path in (tmp_path / NEWEST).iterdir())
    out = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path / NEWEST)], capture_output=True, text=True, check=True).stdout
    told, (grown, seconds) = out.splitlines()[0], out.splitlines()[-1].split()
    print(f"{lie}: {told} ({int(grown) / 1e6:.0f} MB for {size / 1e6:.0f} MB, {float(seconds):.1f} s)")
    assert told != "loaded"
    assert int(grown) < 1.5 * size + 200e6, f"{int(grown) / 1e6:.0f} MB for {size / 1e6:.0f} MB"
    assert float(seconds) < 10 * SLACK


@pytest.mark.nightly
def test_a_load_needs_little_memory_beside_what_it_fills(tmp_path):
    """Blocks, not files: 400 MB are read in less than 200 MB."""
    content = np.arange(10**8, dtype=np.float32).tobytes()
    write_hostile(tmp_path / NEWEST, [tensor((10**8,))], content)
    begun = time.monotonic()
    out = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path / NEWEST)], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "loaded" and int(out.split()[-2]) < len(content) + 200e6, out
    print(f"{int(out.split()[-2]) / 1e6:.0f} MB for a tensor of {len(content) / 1e6:.0f} MB, {time.monotonic() - begun:.1f} s in all")
