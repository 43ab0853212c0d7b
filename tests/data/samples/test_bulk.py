"""Bulk reads against a naive reading of the stream, whatever the sources, and what they touch of a file."""

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.order.permutation import window_start
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens import bulk
from hexareme.data.tokens.bulk import BinReader
from hexareme.data.tokens.token_file import TokenFile, open_corpus
from hexareme.data.tokens.writer import TokenFileWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from ..token_files import write_tokens
from .test_dataset import DOCUMENTS, naive

PAGE = mmap.PAGESIZE


@settings(max_examples=60, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 99), st.booleans(), st.data())
def test_a_batch_of_several_sources(sources, length, seed, mask, data):
    """Every sample is the naive one, in the given order, with windows that wrap, empty documents, and dtypes that differ."""
    sources = [documents for documents in sources if sum(map(len, documents)) > length]
    if not sources:
        return
    indices = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, documents in enumerate(sources):
            write_tokens(Path(folder) / str(number), documents, np.int32 if number == 1 else np.uint16)
            files.append((TokenFile(Path(folder) / str(number)), number + 1.0))
        training = TrainingSet(files, sequence_length=length, seed=seed, document_mask=mask, vocab_size=1000)
        batch = training.batch(indices)
    assert batch.samples_B.tolist() == indices
    found, numbers = training.order.locate(np.array(indices))
    for row, (source, number) in enumerate(zip(found.tolist(), numbers.tolist(), strict=True)):
        documents = sources[source]
        start = window_start(number, seed=seed, num_tokens=sum(map(len, documents)), sequence_length=length, stream=source)
        tokens, targets, segments, positions, ids = naive(documents, start, length)
        assert (int(batch.sources_B[row]), int(batch.starts_B[row])) == (source, start)
        assert batch.tokens_BS[row].tolist() == tokens
        assert batch.targets_BS[row].tolist() == targets
        assert batch.documents_BS[row].tolist() == (segments if mask else [0] * length)
        assert batch.positions_BS[row].tolist() == (positions if mask else list(range(length)))
        assert batch.document_ids_B[row] == tuple(ids)
    assert batch.tokens_BS.base is batch.targets_BS.base  # one gather; nothing is copied for the targets


def resident(path: Path) -> np.ndarray:
    """Which pages of a file are in the page cache, by mincore(2)."""
    size = path.stat().st_size
    access = {"prot": mmap.PROT_READ | mmap.PROT_WRITE, "flags": mmap.MAP_PRIVATE}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), size, **access) as mapped:
        pages = (ctypes.c_ubyte * -(-size // PAGE))()
        start = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages) == 0
        del start
    return np.frombuffer(pages, np.uint8) & 1 == 1


def evict(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def cold(tmp_path):
    """32 MB of ids of which the page cache holds nothing."""
    with TokenFileWriter(tmp_path / "train", np.uint16) as writer:
        writer.add_documents(np.arange(16_000_000, dtype=np.uint32).astype(np.uint16), np.full(16_000, 1000))
        writer.finish()
    file = open_corpus(tmp_path / "train")
    path = tmp_path / "train.bin"
    evict(path)
    if resident(path).any():
        pytest.skip("this file system keeps its pages")
    return file, path


@pytest.mark.parametrize("at_once", [64, 1])
def test_a_step_reads_its_own_windows_and_no_page_more(cold, at_once):
    file, path = cold
    training = TrainingSet([(file, 1.0)], sequence_length=2048, seed=0, document_mask=True, vocab_size=65536)
    starts = np.concatenate([training.batch(range(first, first + at_once)).starts_B for first in range(0, 64, at_once)])
    wanted = np.zeros(path.stat().st_size // PAGE + 1, dtype=bool)
    for start in starts.tolist():
        wanted[2 * start // PAGE : (2 * start + 2 * 2049 - 1) // PAGE + 1] = True
    there = resident(path)
    assert not (there & ~wanted[: len(there)]).any()
    assert there.sum() == wanted.sum()


def test_what_is_not_cached_is_asked_for_before_the_first_wait(cold, monkeypatch):
    """Otherwise a step on a cold file system would wait for its windows one after the other."""
    file, _ = cold
    calls = []
    original = BinReader._advise
    monkeypatch.setattr(BinReader, "_advise", lambda reader, offset, count: (calls.append("ask"), original(reader, offset, count)))
    training = TrainingSet([(file, 1.0)], sequence_length=2048, seed=0, document_mask=True)
    ticks = []
    training.batch(range(16), lambda: (calls.append("read"), ticks.append(1)))
    assert calls == ["ask"] * 16 + ["read"] * 16
    assert len(ticks) == 16  # a sign of progress after each wait
    calls.clear()
    training.batch(range(16), lambda: calls.append("read"))
    assert calls == []  # from the page cache


def test_a_file_system_that_cannot_say_what_is_cached(cold, monkeypatch):
    """NFS knows no RWF_NOWAIT."""
    file, _ = cold
    original = os.preadv

    def preadv(descriptor, buffers, offset, flags=0):
        if flags:
            raise OSError(95, "Operation not supported")
        return original(descriptor, [buffers[0][:100]], offset)  # and reads are short

    monkeypatch.setattr(bulk.os, "preadv", preadv)
    training = TrainingSet([(file, 1.0)], sequence_length=2048, seed=0, document_mask=True)
    batch = training.batch(range(3))
    for row, start in enumerate(batch.starts_B.tolist()):
        assert np.array_equal(batch.tokens_BS[row], np.arange(start, start + 2048).astype(np.uint16))


def test_data_parallel_ranks_read_disjoint_windows(tmp_path):
    write_tokens(tmp_path / "train", [list(range(1000)) * 10])
    training = TrainingSet([(TokenFile(tmp_path / "train"), 1.0)], sequence_length=64, seed=0, document_mask=True)
    starts = [training.places(np.arange(rank * 4, rank * 4 + 4))[1] for rank in range(4)]
    assert len(set(np.concatenate(starts).tolist())) == 16


def test_without_ids_nothing_of_the_bin_is_read(tmp_path, monkeypatch):
    write_tokens(tmp_path / "train", [[1, 2, 3]] * 100)
    training = TrainingSet([(TokenFile(tmp_path / "train"), 1.0)], sequence_length=16, seed=0, document_mask=True, vocab_size=10)
    whole = training.batch(range(9))
    training.leave_out_ids()
    monkeypatch.setattr(bulk.os, "preadv", None)
    part = training.batch(range(9))
    assert not part.tokens_BS.any() and not part.targets_BS.any() and whole.tokens_BS.all()
    for name in ("documents_BS", "positions_BS", "loss_mask_BS", "samples_B", "starts_B", "documents_D"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)), name
