"""Token files against plain lists; every kind of damage against the error that must name it."""

import json
import os
import resource
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hexareme.data.errors import DataError
from hexareme.data.tokens import description as description_module
from hexareme.data.tokens.description import BLOCK_BYTES, BlockHasher, read_description, write_description
from hexareme.data.tokens.token_file import TokenFile, check_files, largest_id, open_corpus
from hexareme.data.tokens.writer import TokenFileWriter, token_dtype
from hypothesis import given, settings
from hypothesis import strategies as st

from ..token_files import random_documents, write_corpus, write_tokens

DOCUMENTS = st.lists(st.lists(st.integers(0, 999), max_size=9), max_size=12)


@settings(max_examples=20, deadline=None)
@given(DOCUMENTS, st.sampled_from([np.uint16, np.int32]))
def test_what_was_written_is_read(documents, dtype):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "name.with.dots"
        part = write_tokens(prefix, documents, dtype)
        file = open_corpus(prefix)
        flat = [token for document in documents for token in document]
        assert [file.document(i).tolist() for i in range(file.num_documents)] == documents
        assert file.read(0, file.num_tokens).tolist() == flat
        assert file.document_starts.tolist() == np.cumsum([0, *map(len, documents)]).tolist()
        assert (part.documents, part.tokens, part.largest_id) == (len(documents), len(flat), max(flat, default=-1))
        assert largest_id(prefix) == part.largest_id


@settings(max_examples=20, deadline=None)
@given(DOCUMENTS.filter(any), st.data())
def test_documents_in_a_range_of_tokens(documents, data):
    owners = [number for number, document in enumerate(documents) for _ in document]
    start = data.draw(st.integers(0, len(owners) - 1))
    count = data.draw(st.integers(1, len(owners) - start))
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder) / "train", documents)
        numbers, begins = TokenFile(Path(folder) / "train").documents_in(start, count)
    inside = owners[start : start + count]
    assert numbers == sorted(set(inside))
    assert begins == [start + inside.index(number) for number in numbers]


def test_bulk_and_single_writes_give_the_same_bytes(tmp_path):
    documents = random_documents(50, 30, 1000)
    write_tokens(tmp_path / "single", documents)
    with TokenFileWriter(tmp_path / "bulk", np.uint16) as writer:
        writer.add_documents(np.array(sum(documents[:20], [])), np.array([len(d) for d in documents[:20]]))
        writer.add_documents(np.array(sum(documents[20:], [])), np.array([len(d) for d in documents[20:]]))
        writer.finish()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"single{suffix}").read_bytes() == (tmp_path / f"bulk{suffix}").read_bytes()


def test_ids_must_fit(tmp_path):
    assert token_dtype(65536) == np.uint16
    assert token_dtype(65537) == np.int32
    write_tokens(tmp_path / "largest", [[65535]])
    for wrong in (65536, -1):
        with pytest.raises(DataError, match=str(wrong)):
            write_tokens(tmp_path / "train", [[1], [wrong]])
    with pytest.raises(ValueError, match="float"):
        TokenFileWriter(tmp_path / "train", np.dtype(np.float32))
    with TokenFileWriter(tmp_path / "train", np.uint16) as writer, pytest.raises(ValueError, match="3 ids"):
        writer.add_documents(np.arange(3), np.array([1, 1]))
    assert sorted(os.listdir(tmp_path)) == ["largest.bin", "largest.idx"]


def test_only_one_writer_at_a_time_and_the_rest_of_a_killed_one_is_overwritten(tmp_path):
    (tmp_path / "train.bin.writing").write_bytes(b"left behind")
    with TokenFileWriter(tmp_path / "train", np.uint16) as writer:
        with pytest.raises(DataError, match="another process"):
            TokenFileWriter(tmp_path / "train", np.uint16)
        writer.add_document(np.arange(3))
        writer.finish()
    assert open_corpus(tmp_path / "train").document(0).tolist() == [0, 1, 2]


def test_a_full_disk_leaves_nothing_and_keeps_the_old_file(tmp_path):
    write_tokens(tmp_path / "train", [[1, 2]])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="too large"), TokenFileWriter(tmp_path / "train", np.uint16) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
        try:
            writer.add_document(np.zeros(2**20, dtype=np.uint16))
            writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == ["train.bin", "train.idx"]
    assert open_corpus(tmp_path / "train").num_tokens == 2


def test_memory_does_not_grow_with_the_documents(tmp_path):
    tracemalloc.start()
    with TokenFileWriter(tmp_path / "train", np.uint16) as writer:
        for _ in range(40):
            writer.add_documents(np.zeros(100_000, dtype=np.uint16), np.full(50_000, 2))
        writer.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20  # 2 M documents; their lengths alone are 8 MB as int32, 64 MB as Python's
    file = open_corpus(tmp_path / "train")
    assert file.document_starts[-1] == file.num_tokens == 4_000_000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2 * BLOCK_BYTES // 1000), max_size=6))
def test_block_checksums_do_not_depend_on_the_writes(cuts):
    data = np.random.default_rng(0).bytes(2 * BLOCK_BYTES // 1000)
    whole, pieces = BlockHasher(), BlockHasher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(description_module, "BLOCK_BYTES", BLOCK_BYTES // 1000)
        whole.update(data)
        edges = [0, *sorted(cuts), len(data)]
        for start, end in zip(edges, edges[1:], strict=False):
            pieces.update(data[start:end])
    half = BLOCK_BYTES // 1000
    assert pieces.finish() == (expected := whole.finish())
    assert expected.blocks[:2] == tuple(xxhash.xxh3_128_hexdigest(data[at : at + half]) for at in (0, half))


def test_description_reads_back(tmp_path):
    written = write_corpus(tmp_path, [[1, 2], [3]])
    assert read_description(tmp_path) == written
    assert os.listdir(tmp_path).count("corpus.json") == 1
    assert not list(tmp_path.glob("*.writing"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.update(version=2), "version 2"),
        (lambda raw: raw.pop("tokenizer"), "tokenizer.*missing"),
        (lambda raw: raw.update(parts=[1]), "parts"),
        (lambda raw: raw["parts"]["train"].update(tokens=-1), "tokens"),
        (lambda raw: raw["parts"]["train"].update(tokens=True), "tokens"),
        (lambda raw: raw["parts"]["train"]["bin"].update(blocks=[]), "block checksums"),
        (lambda raw: raw["tokenizer"].update(kind=3), "kind"),
    ],
)
def test_a_malformed_description_is_named(tmp_path, change, says):
    write_corpus(tmp_path, [[1, 2], [3]])
    raw = json.loads((tmp_path / "corpus.json").read_text())
    change(raw)
    (tmp_path / "corpus.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=says) as caught:
        open_corpus(tmp_path)
    assert caught.value.file == str(tmp_path / "corpus.json")
    assert caught.value.do
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
def test_a_description_that_is_no_description(tmp_path, content):
    write_corpus(tmp_path, [[1]])
    (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(DataError, match=r"corpus\.json"):
        read_description(tmp_path)


def test_missing_things_are_named(tmp_path):
    write_corpus(tmp_path / "corpus", [[1, 2], [3]])
    (tmp_path / "empty").mkdir()
    for check in (open_corpus, check_files, largest_id):
        with pytest.raises(DataError, match=r"nowhere\.(bin|idx) does not exist"):
            check(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"no finished corpus"):
            check(tmp_path / "empty")
        with pytest.raises(DataError, match="no part 'validation'"):
            check(tmp_path / "corpus", "validation")
        with pytest.raises(DataError, match="is a Megatron prefix"):
            check(tmp_path / "corpus" / "train", "validation")
        check(tmp_path / "corpus")
        check(tmp_path / "corpus" / "train")
    (tmp_path / "corpus" / "train.bin").unlink()
    for check in (open_corpus, check_files):
        with pytest.raises(DataError, match=r"train\.bin does not exist") as caught:
            check(tmp_path / "corpus")
        assert caught.value.file == str(tmp_path / "corpus" / "train.bin")


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5, 7, 60])
def test_a_bin_of_another_size(tmp_path, described, size):
    write_corpus(tmp_path, [[1, 2], [3]])
    content = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes((content * 10)[:size])
    path = tmp_path if described else tmp_path / "train"
    for check in (open_corpus, check_files, *(() if described else (largest_id,))):
        with pytest.raises(DataError, match=rf"train\.bin has {size} bytes, (shorter|longer)"):
            check(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found_where_there_are_checksums(data):
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), random_documents(6, 5, 1000))
        file = Path(folder) / data.draw(st.sampled_from(["train.bin", "train.idx"]))
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        with pytest.raises(DataError, match=file.name):
            open_corpus(folder)


def test_a_description_of_other_contents_is_not_believed(tmp_path):
    corpus = write_corpus(tmp_path, [[1, 2], [3]])
    for key, value in {"documents": 3, "tokens": 4, "dtype": "int32", "largest_id": 2}.items():
        part = type(corpus.parts["train"])(**{**vars(corpus.parts["train"]), key: value})
        write_description(tmp_path, type(corpus)(tokenizer=corpus.tokenizer, parts={"train": part}))
        with pytest.raises(DataError, match=f"{key} .* corpus.json says {value}"):
            open_corpus(tmp_path)


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_truncation_while_open_is_an_error_and_no_signal(tmp_path, suffix):
    write_tokens(tmp_path / "train", [[1, 2]] * 10_000)
    file = open_corpus(tmp_path / "train")
    os.truncate(tmp_path / f"train.{suffix}", 100)
    in_bin = (lambda: file.read(19_000, 10).sum(), lambda: file.document(9_000).sum())
    in_idx = (lambda: file.documents_in(19_000, 10), lambda: file.document(9_000).sum())
    for use in in_bin if suffix == "bin" else in_idx:
        with pytest.raises(DataError, match=f"{suffix} was truncated while in use"):
            use()


def test_reading_outside(tmp_path):
    write_tokens(tmp_path / "train", [[1, 2, 3]])
    file = TokenFile(tmp_path / "train")
    for start, count in ((-1, 1), (0, 4), (3, 1), (1, -1)):
        with pytest.raises(IndexError):
            file.read(start, count)
