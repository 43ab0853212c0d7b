"""Against Megatron-core's own reader and builder, byte for byte; and against indexes made to hurt."""

import resource
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hexareme.data.errors import DataError
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens import index_file, index_writer
from hexareme.data.tokens.token_file import TokenFile, open_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from ..token_files import random_documents, write_corpus, write_tokens

DTYPES = [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16]


def build_with_megatron(prefix, documents, dtype):
    """documents: lists of sequences, each a list of ids."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequences in documents:
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bytes_as_megatrons_builder(tmp_path, dtype):
    documents = [*random_documents(200, 40, 100), [], [5], []]
    write_tokens(tmp_path / "ours", documents, dtype)
    build_with_megatron(tmp_path / "theirs", [[document] for document in documents], dtype)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_megatron_reads_a_corpus_of_ours(tmp_path):
    documents = random_documents(100, 40, 1000)
    write_corpus(tmp_path, documents)
    theirs = IndexedDataset(str(tmp_path / "train"))
    assert [sequence.tolist() for sequence in theirs] == documents
    assert theirs.document_indices.tolist() == list(range(101))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 100), max_size=5), max_size=3), max_size=8), st.sampled_from(DTYPES))
def test_a_file_of_megatrons_opens_unchanged(documents, dtype):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "theirs"
        build_with_megatron(prefix, documents, dtype)
        file = open_corpus(prefix)
        assert file.dtype == dtype
        assert [file.document(i).tolist() for i in range(file.num_documents)] == [sum(document, []) for document in documents]
        assert file.document_starts.tolist() == np.cumsum([0, *(len(sum(d, [])) for d in documents)]).tolist()


def test_a_file_of_megatrons_gives_samples(tmp_path):
    documents = random_documents(30, 20, 1000)
    build_with_megatron(tmp_path / "theirs", [*([document] for document in documents), [], []], np.int32)  # the last two have no sequence
    training = TrainingSet([(open_corpus(tmp_path / "theirs"), 1.0)], sequence_length=16, seed=0, document_mask=True)
    stream = sum(documents, [])
    tokens = training.sample(3).tokens_S.tolist()
    assert any((stream + stream)[at : at + 16] == tokens for at in range(len(stream)))
    file, batch = training.files[0], training.batch(range(40))
    for start, ids in zip(batch.starts_B.tolist(), batch.document_ids_B, strict=True):
        count = min(16, file.num_tokens - start)
        assert list(ids)[: len(file.documents_in(start, count)[0])] == file.documents_in(start, count)[0]


def test_floats_are_no_tokens(tmp_path):
    build_with_megatron(tmp_path / "theirs", [[[1, 2]]], np.float32)
    with pytest.raises(DataError, match="float32"):
        open_corpus(tmp_path / "theirs")


def index(lengths, pointers, documents, *, magic=b"MMIDIDX\x00\x00", version=1, code=8, counts=None):
    n, m = counts or (len(lengths), len(documents))
    arrays = np.array(lengths, "<i4").tobytes() + np.array(pointers, "<i8").tobytes() + np.array(documents, "<i8").tobytes()
    return struct.pack("<9sQBQQ", magic, version, code, n, m) + arrays


GOOD = ([2, 3, 1], [0, 4, 10], [0, 1, 2, 3])
BIG = 2**31 - 1
HOSTILE = {
    "magic": (index(*GOOD, magic=b"MMIDIDX\x00\x01"), "starts with"),
    "version": (index(*GOOD, version=2), "version 2"),
    "dtype": (index(*GOOD, code=9), "dtype code 9"),
    "count 2^63": (index(*GOOD, counts=(2**63, 4)), "need"),
    "count overflows to the right size": (index(*GOOD, counts=(3 + 2**61, 4)), "need"),
    "documents 2^63": (index(*GOOD, counts=(3, 2**63)), "need"),
    "no document index": (index([], [], []), "at least 1"),
    "pointer beyond": (index([2, 3, 1], [0, 4, 2**62], [0, 1, 2, 3]), r"train\.(idx|bin)"),
    "pointer negative": (index([2, 3, 1], [0, -4, 10], [0, 1, 2, 3]), "points to byte -4"),
    "pointers overlap": (index([2, 3, 1], [0, 2, 10], [0, 1, 2, 3]), "points to byte 2"),
    "pointers unsorted": (index([2, 3, 1], [4, 0, 10], [0, 1, 2, 3]), "points to byte 4"),
    "length negative": (index([2, -3, 7], [0, 4, -2], [0, 1, 2, 3]), "length -3|train.bin"),
    "lengths too long": (index([2, BIG, 1], [0, 4, 4 + 2 * BIG], [0, 1, 2, 3]), "shorter"),
    "documents decrease": (index([2, 3, 1], [0, 4, 10], [0, 2, 1, 3]), "smaller than the one before"),
    "documents do not start": (index([2, 3, 1], [0, 4, 10], [1, 1, 2, 3]), "from 1 to 3"),
    "documents do not end": (index([2, 3, 1], [0, 4, 10], [0, 1, 2, 2]), "from 0 to 2"),
    "documents beyond": (index([2, 3, 1], [0, 4, 10], [0, 1, 9, 3]), "smaller than the one before"),
    "empty": (b"", "0 bytes"),
    "half a header": (index(*GOOD)[:20], "20 bytes"),
    "one byte more": (index(*GOOD) + b"\x00", "need"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_index(tmp_path, name):
    content, says = HOSTILE[name]
    (tmp_path / "train.idx").write_bytes(content)
    (tmp_path / "train.bin").write_bytes(bytes(12))
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(DataError, match=says) as caught:
        open_corpus(tmp_path / "train")
    assert caught.value.do
    assert caught.value.file
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # KB


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@given(documents=st.lists(st.lists(st.integers(0, 100), max_size=5), max_size=12), data=st.data())
@settings(max_examples=8, deadline=None)
def test_chunk_edges(chunk, documents, data):
    """Files larger than what is checked and written at a time: here that is a few documents."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (index_file, index_writer):
            patch.setattr(module, "CHUNK", chunk)
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        write_tokens(ours, documents)
        build_with_megatron(theirs, [[document] for document in documents], np.uint16)
        assert ours.with_suffix(".idx").read_bytes() == theirs.with_suffix(".idx").read_bytes()
        open_corpus(ours)
        order = [0, *data.draw(st.permutations(range(1, len(documents)))), len(documents)]
        if len(documents) > 2 and order != sorted(order):
            content = ours.with_suffix(".idx").read_bytes()
            ours.with_suffix(".idx").write_bytes(content[: -8 * len(order)] + np.array(order, "<i8").tobytes())
            with pytest.raises(DataError, match="smaller than the one before"):
                open_corpus(ours)


def test_the_good_one_is_good(tmp_path):
    (tmp_path / "train.idx").write_bytes(index(*GOOD))
    (tmp_path / "train.bin").write_bytes(bytes(12))
    assert open_corpus(tmp_path / "train").document_starts.tolist() == [0, 2, 5, 6]


def test_opening_without_verifying_reads_nothing_outside(tmp_path):
    (tmp_path / "train.idx").write_bytes(index([2, 3, 1], [-(2**40), 2**50, 10], [0, 1, 2, 3]))
    (tmp_path / "train.bin").write_bytes(bytes(12))
    with pytest.raises(IndexError):
        TokenFile(tmp_path / "train").document(0)
