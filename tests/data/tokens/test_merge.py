"""Merging against Megatron's own merge, and by the command; what must not be merged; memory."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.tokens import merge
from hexareme.data.tokens.description import TokenizerDescription, read_description, write_description
from hexareme.data.tokens.merge import to_corpus, to_megatron, to_nanogpt
from hexareme.data.tokens.token_file import open_corpus
from hexareme.data.tokens.writer import TokenFileWriter
from hexareme.launcher import cli
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from ..token_files import random_documents, write_corpus, write_tokens
from .test_megatron import build_with_megatron


def test_merged_as_megatron_merges(tmp_path):
    """tools/merge_datasets.py is add_index of each; documents of several sequences and empty ones, too."""
    write_tokens(tmp_path / "a", [*random_documents(20, 9, 1000), []])
    build_with_megatron(tmp_path / "b", [[[1, 2], [3]], [], [[4], [], [5, 6]]], np.uint16)
    write_tokens(tmp_path / "c", [])
    write_tokens(tmp_path / "d", random_documents(7, 9, 1000, seed=1))
    theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for name in "abcd":
        theirs.add_index(str(tmp_path / name))
    theirs.finalize(str(tmp_path / "theirs.idx"))
    merged = to_megatron(f"{tmp_path}/[a-d]", tmp_path / "new" / "ours")
    for suffix in (".bin", ".idx"):
        assert (tmp_path / "new" / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()
    assert (merged.documents, merged.tokens) == (31, open_corpus(tmp_path / "new" / "ours").num_tokens)
    with pytest.raises(DataError, match=r"ours\.bin exists"):
        to_megatron(f"{tmp_path}/a", tmp_path / "new" / "ours")


def folders(tmp_path, count=3):
    for number in range(count):
        corpus = write_corpus(tmp_path / f"in-{number}", random_documents(10 + number, 20, 900, seed=number))
        parts = {**corpus.parts, "validation": write_tokens(tmp_path / f"in-{number}" / "validation", [[number, 5]])}
        write_description(tmp_path / f"in-{number}", type(corpus)(tokenizer=corpus.tokenizer, parts=parts))
        (tmp_path / f"in-{number}" / "tokenizer").mkdir()
        (tmp_path / f"in-{number}" / "tokenizer" / "tokenizer.json").write_text("{}")
    return [str(tmp_path / f"in-{number}") for number in range(count)]


def test_corpora_by_the_command(tmp_path, capsys):
    given = folders(tmp_path)
    output = tmp_path / "all"
    assert cli.main(["convert", "source=tokens", f"path=[{','.join(given)}]", "target=corpus", f"output={output}"]) == 0
    assert "36 documents" in capsys.readouterr().out
    for part in ("train", "validation"):
        merged, pieces = open_corpus(output, part), [open_corpus(folder, part) for folder in given]
        assert np.array_equal(merged.read(0, merged.num_tokens), np.concatenate([each.read(0, each.num_tokens) for each in pieces]))
        assert merged.num_documents == sum(each.num_documents for each in pieces)
        assert read_description(output).parts[part].largest_id == merged.read(0, merged.num_tokens).max()
    assert (output / "tokenizer" / "tokenizer.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "in-0", "in-1", "in-2"]
    assert cli.main(["convert", "source=tokens", f"path={given[0]}", "target=corpus", f"output={output}"]) == 3
    assert "all exists" in capsys.readouterr().err


def test_there_and_back_by_the_command(tmp_path, capsys):
    documents = [[*document, 999] for document in random_documents(40, 20, 900)]
    for name, dtype in (("narrow", np.uint16), ("wide", np.int32)):
        write_tokens(tmp_path / name, documents, dtype)
        raw, back = tmp_path / f"{name}-raw.bin", tmp_path / f"{name}-back"
        assert cli.main(["convert", "source=tokens", f"path={tmp_path / name}", "target=nanogpt", f"output={raw}"]) == 0
        theirs = np.memmap(raw, dtype=np.uint16 if name == "narrow" else np.uint32, mode="r")  # as nanoGPT's train.py opens it
        assert theirs.tolist() == [token for document in documents for token in document]
        spelling = f"{raw}@999" + ("" if name == "narrow" else ":uint32")
        assert cli.main(["convert", "source=nanogpt", f"path={spelling}", "target=megatron", f"output={back}"]) == 0
        for suffix in (".bin", ".idx"):
            assert back.with_suffix(suffix).read_bytes() == (tmp_path / f"{name}{suffix}").read_bytes()
    capsys.readouterr()
    for words, code, says in (
        (["source=nanogpt", f"path={raw}", "target=megatron"], 2, "which id closes a document"),
        (["source=tokens", f"path={raw}@999", "target=safetensors"], 2, "is no format of tokens"),
        (["source=tokens", f"path=[{tmp_path}/narrow,{tmp_path}/wide]", "target=megatron"], 3, "wide.bin holds int32 ids"),
        (["source=tokens", f"path={tmp_path}/narrow", "target=corpus"], 3, "is no corpus folder"),
    ):
        assert cli.main(["convert", *words, f"output={tmp_path}/x"]) == code
        assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))


def test_what_is_unlike_is_not_merged(tmp_path):
    one, two, _ = folders(tmp_path)
    (Path(two) / "tokenizer" / "tokenizer.json").write_text("{ }")
    with pytest.raises(DataError, match="in-1 has another tokenizer"):
        to_corpus(f"{one}|{two}", tmp_path / "all")
    (Path(two) / "tokenizer" / "tokenizer.json").write_text("{}")
    written = read_description(two)
    other = TokenizerDescription(kind="byte_bpe", vocab_size=1000, end_of_document=1)
    write_description(two, type(written)(tokenizer=other, parts=written.parts))
    with pytest.raises(DataError, match="in-1 has another tokenizer"):
        to_corpus(f"{one}|{two}", tmp_path / "all")
    write_description(two, type(written)(tokenizer=written.tokenizer, parts={"train": written.parts["train"]}))
    with pytest.raises(DataError, match="in-1 has the parts"):
        to_corpus(f"{one}|{two}", tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    given = folders(tmp_path)
    monkeypatch.setattr(merge, "write_description", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        to_corpus("|".join(given), tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in-0", "in-1", "in-2"]


def test_where_the_kernel_cannot_copy_it_sends(tmp_path, monkeypatch):
    write_tokens(tmp_path / "a", random_documents(20, 9, 1000))
    monkeypatch.setattr(merge.os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    monkeypatch.setattr(merge, "PIECE", 16)
    to_nanogpt(f"{tmp_path}/a|{tmp_path}/a", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "a.bin").read_bytes() * 2


PEAK = """
import sys
from pathlib import Path
from hexareme.data.tokens.merge import to_megatron
from hexareme.data.tokens.token_file import open_corpus
open_corpus(sys.argv[1])
def private():
    return int(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous")))
before, peak = private(), []
to_megatron(sys.argv[1], Path(sys.argv[2]), lambda: peak.append(private()))
print(max(peak) - before)
"""


def test_memory_of_a_merge_is_flat(tmp_path):
    """400 MB of ids in 800,000 documents: Megatron's own merge holds every pointer, document index and length."""
    with TokenFileWriter(tmp_path / "a", np.uint16) as writer:
        for _ in range(8):
            writer.add_documents(np.ones(12_500_000, dtype=np.uint16), np.full(50_000, 250))
        writer.finish()
    path = "|".join([str(tmp_path / "a")] * 2)
    try:
        found = subprocess.run([sys.executable, "-c", PEAK, path, str(tmp_path / "b")], capture_output=True, text=True, check=True)
        assert (tmp_path / "b.bin").stat().st_size == 400_000_000
        assert int(found.stdout) < 30_000  # kB; the ids alone are 400,000
    finally:
        shutil.rmtree(tmp_path)
