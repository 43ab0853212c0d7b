"""Rows E1 to E4 of the fault matrix, files: every damage is an error 3, quickly, in little memory, and never a signal."""

import os
import resource
import shutil
import time

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens.stamp import beside, in_cache
from hexareme.data.tokens.token_file import check_files, open_corpus

from ..token_files import random_documents, write_corpus, write_tokens

MOST_KB, MOST_SECONDS = 50_000, 1.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def forget(prefix):
    """Nothing is believed because of an earlier verification."""
    for stamp in (beside(prefix), in_cache(prefix)):
        stamp.unlink(missing_ok=True)


def refused(path):
    with pytest.raises(DataError) as caught:
        open_corpus(path)
    assert caught.value.exit_code == 3 and caught.value.do and caught.value.file
    return str(caught.value)


def test_e2_1000_bit_flips_and_200_truncations_of_the_index_are_all_found(tmp_path):
    write_corpus(tmp_path, random_documents(60, 20, 1000))
    idx, draw = tmp_path / "train.idx", np.random.default_rng(0)
    good = idx.read_bytes()
    for bit in draw.choice(8 * len(good), 1000, replace=False).tolist():
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        idx.write_bytes(content)
        assert "train.idx" in refused(tmp_path)
    for length in draw.choice(len(good), 200, replace=False).tolist():
        idx.write_bytes(good[:length])
        assert "train.idx" in refused(tmp_path)
    idx.write_bytes(good)
    open_corpus(tmp_path)


def mutated(good, draw):
    """One to three harms: a flipped bit, eight bytes of noise or of a hostile number, cut off, stretched."""
    content = bytearray(good)
    for _ in range(draw.integers(1, 4)):
        at, kind = int(draw.integers(0, len(content))), draw.integers(0, 5)
        if kind == 0:
            content[at] ^= 1 << int(draw.integers(0, 8))
        elif kind == 1:
            content[at : at + 8] = draw.bytes(8)[: len(content[at : at + 8])]
        elif kind == 2:
            hostile = int(draw.choice([2**63 - 1, -(2**63), -1, 2**31, 2**61, 2**32 - 1]))
            content[at : at + 8] = np.array([hostile], "<i8").tobytes()[: len(content[at : at + 8])]
        elif kind == 3:
            del content[at:]
            content += bytes(1)
        else:
            content[at:at] = draw.bytes(int(draw.integers(1, 20)))
    return content


@pytest.mark.parametrize("cases", [500, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_e3_a_hostile_index_is_refused_or_gives_the_very_tokens(tmp_path, cases):
    """A foreign file has no checksums: what is not refused reads every document, and samples, all inside of the `.bin`."""
    draw = np.random.default_rng(cases)
    write_tokens(tmp_path / "good", random_documents(12, 9, 1000))
    good, tokens = (tmp_path / "good.idx").read_bytes(), (tmp_path / "good.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(tokens)
    refusals, memory = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(cases):
        (tmp_path / "train.idx").write_bytes(mutated(good, draw))
        forget(tmp_path / "train")
        begin = time.perf_counter()
        try:
            check_files(tmp_path / "train")
            file = open_corpus(tmp_path / "train")
        except DataError:
            refusals += 1
        else:
            assert b"".join(file.document(number).tobytes() for number in range(file.num_documents)) == tokens
            batch = TrainingSet([(file, 1.0)], sequence_length=8, seed=0, document_mask=True, vocab_size=1000).batch(range(20))
            assert set(batch.documents_D.tolist()) <= set(range(file.num_documents))
        assert time.perf_counter() - begin < MOST_SECONDS
    assert refusals > 0.9 * cases
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_KB


@pytest.mark.parametrize("change", [-12, -2, -1, 1, 2, 4096])
def test_e4_a_bin_that_is_not_as_long_as_its_index_says_is_refused(tmp_path, change):
    write_corpus(tmp_path, random_documents(20, 20, 1000))
    file = tmp_path / "train.bin"
    file.write_bytes((file.read_bytes() + bytes(5000))[: file.stat().st_size + change])
    for path in (tmp_path, tmp_path / "train"):
        assert ("shorter" if change < 0 else "longer") in refused(path)


def in_place(path):
    with path.open("r+b") as stream:
        stream.write(b"\x07")


def swap(path):
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


HARM = {
    "truncated": (lambda path: os.truncate(path, 100), "truncated while in use"),
    "emptied": (lambda path: os.truncate(path, 0), "truncated while in use"),
    "one byte short": (lambda path: os.truncate(path, path.stat().st_size - 1), "truncated while in use"),
    "longer": (lambda path: os.truncate(path, path.stat().st_size + 1), "written to while in use"),
    "written": (in_place, "written to while in use"),
    "replaced": (swap, "replaced or deleted while in use"),
    "deleted": (os.unlink, "replaced or deleted while in use"),
}


@pytest.mark.parametrize("name", HARM)
def test_e4_a_bin_that_changes_in_use_is_an_error_at_the_next_read(tmp_path, name):
    write_tokens(tmp_path / "train", random_documents(2000, 50, 1000))
    training = TrainingSet([(open_corpus(tmp_path / "train"), 1.0)], sequence_length=64, seed=0, document_mask=True, vocab_size=1000)
    training.batch(range(8))
    harm, says = HARM[name]
    time.sleep(0.01)  # a file system's clock ticks each 4 ms; nobody rewrites a file that was opened in the same tick
    harm(tmp_path / "train.bin")
    with pytest.raises(DataError, match=says) as caught:
        training.batch(range(8, 16))
    assert caught.value.exit_code == 3 and caught.value.file == str(tmp_path / "train.bin")


def test_e4_truncated_between_the_look_and_the_read(tmp_path, monkeypatch):
    """The race that a mapped file loses by a signal: the length was looked at, then the file is cut."""
    write_tokens(tmp_path / "train", random_documents(2000, 50, 1000))
    file = open_corpus(tmp_path / "train")
    training = TrainingSet([(file, 1.0)], sequence_length=64, seed=0, document_mask=True)
    monkeypatch.setattr(type(file._reader), "check", lambda reader: os.truncate(reader.path, 100))
    with pytest.raises(DataError, match="truncated while in use"):
        training.batch(range(8))


def test_e1_the_check_of_the_ids_costs_nearly_nothing(tmp_path):
    """At most 1 % of a step; of the time of reading alone, which is far less than a step, it is a fifth at most."""
    write_tokens(tmp_path / "train", [[1] * 1000] * 2000)
    file = open_corpus(tmp_path / "train")
    seconds = {}
    for vocab_size in (0, 1000):
        training = TrainingSet([(file, 1.0)], sequence_length=2048, seed=0, document_mask=True, vocab_size=vocab_size)
        times = []
        for number in range(30):
            begin = time.process_time()
            training.batch(range(64 * number, 64 * number + 64))
            times.append(time.process_time() - begin)
        seconds[vocab_size] = min(times)
    check = (seconds[1000] - seconds[0]) / 64
    assert check < 5e-6  # of a sample of 2048 tokens; on a GPU that computes 1 M tokens a second, a step takes 2 ms for it
