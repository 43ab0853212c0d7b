"""One stream out of many files, and files of other tools, against plain lists and against what those tools write."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens import raw_file
from hexareme.data.tokens.bulk import Spans
from hexareme.data.tokens.mapped_file import TokenFile
from hexareme.data.tokens.token_file import check_files, largest_id, open_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from ..token_files import random_documents, write_corpus, write_tokens

DOCUMENTS = st.lists(st.lists(st.integers(0, 999), max_size=6), max_size=6)


def spans_of(pairs):
    starts, counts = (np.array(each, dtype=np.int64) for each in zip(*pairs, strict=True))
    return Spans(starts_K=starts, counts_K=counts, rows_K=np.arange(len(pairs)), columns_K=np.zeros(len(pairs), dtype=np.int64))


@settings(max_examples=40, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=4).filter(lambda files: any(map(any, files))), st.booleans(), st.data())
def test_several_files_are_one_stream(files, mixed, data):
    """Reading, documents and bulk reading are those of one file with all documents, also across empty files and dtypes."""
    documents = [document for file in files for document in file]
    stream = [token for document in documents for token in document]
    pairs = data.draw(st.lists(st.integers(0, len(stream) - 1).flatmap(
        lambda start: st.tuples(st.just(start), st.integers(1, len(stream) - start))), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            write_tokens(Path(folder) / f"part-{number}", file, np.int32 if mixed and number % 2 else np.uint16)
        write_tokens(Path(folder) / "whole", documents)
        joined, whole = open_corpus(f"{folder}/part-*"), TokenFile(Path(folder) / "whole")
        assert (joined.num_tokens, joined.num_documents) == (len(stream), len(documents))
        assert [joined.document(number).tolist() for number in range(len(documents))] == documents
        assert joined.document_starts.tolist() == whole.document_starts.tolist()
        assert [joined.document_start(n) for n in range(len(documents) + 1)] == [whole.document_start(n) for n in range(len(documents) + 1)]
        assert [joined.document_at(n) for n in range(len(stream))] == [whole.document_at(n) for n in range(len(stream))]
        out = np.full((len(pairs), len(stream)), 7777, dtype=joined.dtype)
        joined.gather(spans_of(pairs), out)
        for row, (start, count) in zip(out, pairs, strict=True):
            assert row.tolist() == stream[start : start + count] + [7777] * (len(stream) - count)
            assert joined.read(start, count).tolist() == stream[start : start + count]
        for tokens in (joined, whole):
            found = tokens.documents_within(spans_of(pairs))
            for number, pair in enumerate(pairs):
                mine = found.spans_D == number
                assert (found.numbers_D[mine].tolist(), found.begins_D[mine].tolist()) == whole.documents_in(*pair)


def test_samples_of_a_joined_stream_are_those_of_the_whole(tmp_path):
    documents = random_documents(60, 30, 1000)
    for number in range(3):
        write_tokens(tmp_path / f"part-{number}", documents[20 * number : 20 * number + 20])
    write_tokens(tmp_path / "whole", documents)
    prefixes = "|".join(f"{tmp_path}/part-{number}" for number in range(3))
    for spelling in (prefixes, f"{tmp_path}/part-[0-2]"):
        one, other = (TrainingSet([(open_corpus(path), 1.0)], sequence_length=64, seed=3, document_mask=True) for path in
                      (spelling, tmp_path / "whole"))
        mine, theirs = one.batch(range(40)), other.batch(range(40))
        for name in ("tokens_BS", "targets_BS", "documents_BS", "positions_BS", "documents_D", "starts_B"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    check_files(prefixes)
    assert largest_id(prefixes) == largest_id(tmp_path / "whole")


END = 999


def nanogpt(path, ids, dtype=np.uint16, header=None):
    """As nanoGPT's data/openwebtext/prepare.py writes it, or with the header of llm.c's data_common.py."""
    head = b""
    if header:
        head_array = np.zeros(256, dtype=np.int32)
        head_array[:3] = *header, len(ids)
        head = head_array.tobytes()
    path.write_bytes(head + np.array(ids, dtype=dtype).tobytes())


@pytest.mark.parametrize(("dtype", "header", "suffix"), [
    (np.uint16, None, ""), (np.uint32, None, ":uint32"), (np.uint16, (20240520, 1), ""), (np.uint32, (20240801, 7), ""),
])
@pytest.mark.parametrize("closed", [True, False])
def test_a_file_of_nanogpts_opens(tmp_path, dtype, header, suffix, closed):
    documents = [[*document, END] for document in random_documents(50, 30, 900)]
    documents = documents if closed else [*documents[:-1], documents[-1][:-1]]
    stream = [token for document in documents for token in document]
    nanogpt(tmp_path / "train.bin", stream, dtype, header)
    write_tokens(tmp_path / "same", documents)
    for _ in range(2):  # the second time from the stamp
        file = open_corpus(f"{tmp_path}/train.bin@{END}{suffix}")
        assert [file.document(number).tolist() for number in range(file.num_documents)] == documents
        assert file.read(3, 50).tolist() == stream[3:53]
    one, other = (TrainingSet([(tokens, 1.0)], sequence_length=16, seed=0, document_mask=True, vocab_size=1000).batch(range(50))
                  for tokens in (file, TokenFile(tmp_path / "same")))
    for name in ("tokens_BS", "documents_BS", "documents_D", "starts_B"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert largest_id(f"{tmp_path}/train.bin@{END}{suffix}") == max(stream)
    path, number, byte = file.origin(3)
    assert (path, number) == (tmp_path / "train.bin", 3)
    assert np.fromfile(path, dtype, 1, offset=byte)[0] == documents[3][0]


def test_a_raw_file_is_indexed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nanogpt(tmp_path / "train.bin", [1, 2, END, 3, END])
    spelling = f"{tmp_path}/train.bin@{END}"
    assert open_corpus(spelling).num_documents == 2
    nanogpt(tmp_path / "train.bin", [1, END, 2, END, 3, END])
    assert open_corpus(spelling).num_documents == 3
    assert open_corpus(f"{tmp_path}/train.bin@1").num_documents == 2  # another end of documents has another index
    nanogpt(tmp_path / "elsewhere.bin", [1, END, 2])
    (tmp_path / f"elsewhere.bin.documents-{END}-uint16.idx").mkdir()  # nothing can be written there
    assert open_corpus(f"{tmp_path}/elsewhere.bin@{END}").num_documents == 2
    assert list((tmp_path / "cache").rglob("*.idx"))


@pytest.mark.parametrize(("content", "spelling", "says"), [
    (b"abc", "@1", "no whole number of uint16 ids"),
    (np.array([1, 2, 3], np.uint16).tobytes(), "@9", "none of them is 9"),
    (np.array([1, 2**31], np.uint32).tobytes(), "@1:uint32", "2\\^31 or more"),
    (np.array([20240520, 1, 5, *[0] * 253], np.int32).tobytes() + b"\x01\x00", "@1", "its header says 1034"),
])
def test_what_is_no_file_of_nanogpts_is_told(tmp_path, content, spelling, says):
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        open_corpus(f"{tmp_path}/train.bin{spelling}")
    assert caught.value.do
    assert not list(tmp_path.glob("*.writing"))


def test_patterns(tmp_path):
    write_corpus(tmp_path / "a", [[1, 2]])
    write_corpus(tmp_path / "b", [[3]])
    assert open_corpus(f"{tmp_path}/*").read(0, 3).tolist() == [1, 2, 3]
    assert open_corpus(f"{tmp_path}/b | {tmp_path}/a/train").read(0, 3).tolist() == [3, 1, 2]
    for wrong, says in ((f"{tmp_path}/x*", "matches no"), (f"{tmp_path}/x*.bin@5", "matches no"), (f"{tmp_path}/x", "does not exist")):
        with pytest.raises(DataError, match=says):
            open_corpus(wrong)


def test_documents_of_a_raw_file_go_across_blocks(tmp_path, monkeypatch):
    documents = [[*document, END] for document in random_documents(60, 30, 900)]
    for bytes_at_once in (2, 6, 64):
        monkeypatch.setattr(raw_file, "BLOCK_BYTES", bytes_at_once)
        nanogpt(tmp_path / f"{bytes_at_once}.bin", [token for document in documents for token in document])
        file = open_corpus(f"{tmp_path}/{bytes_at_once}.bin@{END}")
        assert [file.document(number).tolist() for number in range(file.num_documents)] == documents


@pytest.mark.parametrize(("spelling", "says"), [
    ("{0}/train.bin", "is a file, but neither"), ("{0}/train.bin@1|", "an empty path"), ("", "an empty path"),
])
def test_a_spelling_that_lacks_something_says_which_there_are(tmp_path, spelling, says):
    np.arange(3, dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match=says) as caught:
        open_corpus(spelling.format(tmp_path))
    assert "train.bin@50256" in caught.value.do
