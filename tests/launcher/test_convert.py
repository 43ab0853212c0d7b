"""`hexareme convert`: plain weights by the command."""

from pathlib import Path

import pytest
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.launcher import cli
from safetensors.torch import load_file

from tests.faults.kept import NEWEST, copy_kept


@pytest.mark.parametrize("path", ["", f"checkpoints/{NEWEST}"])
def test_the_weights_are_equal(tmp_path: Path, path, capsys):
    copy_kept(tmp_path)
    assert cli.main(["convert", f"path={tmp_path / path}", f"output={tmp_path / 'weights'}", "shard_bytes=2000"]) == 0
    saved = Checkpoint.open(tmp_path / "checkpoints" / NEWEST)
    files = [Path(line) for line in capsys.readouterr().out.splitlines()[1:]]
    loaded = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert loaded.keys() == {name for name, kind in saved.tensors if kind == "parameter"}
    assert all(tensor.equal(saved.read_tensor(name)) for name, tensor in loaded.items())


@pytest.mark.parametrize(("words", "told"), [
    (["source=huggingface"], "source=huggingface is not built yet"),
    (["target=megatron"], "target=megatron is not built yet"),
])
def test_what_is_not_built_is_refused_by_name(words, told, capsys):
    assert cli.main(["convert", *words, "path=a", "output=b"]) == 2
    assert told in capsys.readouterr().err


def test_an_output_that_is_there_stays(tmp_path: Path, capsys):
    copy_kept(tmp_path)
    assert cli.main(["convert", f"path={tmp_path}", f"output={tmp_path}"]) == 7
    assert "exists" in capsys.readouterr().err
