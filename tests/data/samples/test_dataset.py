"""Samples against a naive reading of the stream, token by token."""

import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.order.permutation import window_start
from hexareme.data.samples.batch import stack
from hexareme.data.samples.dataset import TrainingSet, ValidationSet
from hexareme.data.tokens.token_file import TokenFile
from hypothesis import given, settings
from hypothesis import strategies as st

from ..token_files import random_documents, write_tokens

DOCUMENTS = st.lists(st.lists(st.integers(0, 999), max_size=7), max_size=12)


def naive(documents, start, length):
    """Inputs, targets, segments, positions and documents of a window, one token after the other."""
    stream = [(token, number) for number, document in enumerate(documents) for token in document]
    window = [stream[(start + i) % len(stream)] for i in range(length + 1)]
    segments: list[int] = []
    positions: list[int] = []
    ids: list[int] = []
    for place, (_, number) in enumerate(window[:-1]):
        begins = place == 0 or number != ids[-1] or (start + place) % len(stream) == 0
        if begins:
            ids.append(number)
        segments.append(len(ids) - 1)
        positions.append(0 if begins else positions[-1] + 1)
    return [token for token, _ in window[:-1]], [token for token, _ in window[1:]], segments, positions, ids


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.integers(1, 12), st.integers(0, 99), st.integers(0, 30), st.booleans())
def test_training_sample(documents, length, seed, index, mask):
    if sum(map(len, documents)) <= length:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder) / "train", documents)
        file = TokenFile(Path(folder) / "train")
        sample = TrainingSet([(file, 1.0)], sequence_length=length, seed=seed, document_mask=mask, vocab_size=1000).sample(index)
    start = window_start(index, seed=seed, num_tokens=file.num_tokens, sequence_length=length)
    tokens, targets, segments, positions, ids = naive(documents, start, length)
    assert sample.tokens_S.tolist() == tokens
    assert sample.targets_S.tolist() == targets
    assert sample.documents_S.tolist() == (segments if mask else [0] * length)
    assert sample.positions_S.tolist() == (positions if mask else list(range(length)))
    assert sample.loss_mask_S.tolist() == [1.0] * length
    assert (sample.index, sample.source, list(sample.document_ids)) == (index, 0, ids)
    assert [getattr(sample, f"{name}_S").dtype for name in ("tokens", "targets", "documents", "positions", "loss_mask")] == [
        np.uint16, np.uint16, np.int32, np.int32, np.float32,
    ]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(DOCUMENTS, st.integers(1, 12), st.booleans())
def test_validation_targets_are_all_tokens_once(documents, length, mask):
    stream = [token for document in documents for token in document]
    if len(stream) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder) / "validation", documents)
        dataset = ValidationSet(TokenFile(Path(folder) / "validation"), sequence_length=length, document_mask=mask, vocab_size=1000)
        samples = [dataset.sample(index) for index in range(len(dataset))]
    pairs = [
        (token, target)
        for sample in samples
        for token, target, counts in zip(sample.tokens_S, sample.targets_S, sample.loss_mask_S, strict=True)
        if counts
    ]
    assert pairs == list(zip(stream, stream[1:], strict=False))
    for sample in samples:
        real = int(sample.loss_mask_S.sum())
        _, _, segments, positions, _ = naive(documents, sample.index * length, length)
        assert sample.documents_S[:real].tolist() == (segments[:real] if mask else [0] * real)
        assert sample.positions_S[:real].tolist() == (positions[:real] if mask else list(range(real)))
    with pytest.raises(IndexError):
        dataset.sample(len(dataset))


def test_the_loss_is_never_taken_across_the_padding(tmp_path):
    write_tokens(tmp_path / "v", [[1, 2, 3], [4, 5, 6, 7]])
    last = ValidationSet(TokenFile(tmp_path / "v"), sequence_length=5, document_mask=True).sample(1)
    assert last.tokens_S.tolist() == [6, 7, 0, 0, 0]
    assert last.loss_mask_S.tolist() == [1, 0, 0, 0, 0]
    assert last.documents_S.tolist() == [0, 0, 1, 1, 1]
    assert last.positions_S.tolist() == [0, 1, 0, 1, 2]
    assert last.document_ids == (1,)


def test_mixture_of_files(tmp_path):
    for name, base in (("a", 100), ("b", 200)):
        write_tokens(tmp_path / name, [[base + i for i in range(50)]])
    files = [TokenFile(tmp_path / name) for name in "ab"]
    training = TrainingSet([(files[0], 3), (files[1], 1)], sequence_length=4, seed=0, document_mask=True)
    samples = [training.sample(index) for index in range(48)]
    assert Counter(sample.source for sample in samples) == {0: 36, 1: 12}
    assert all((sample.tokens_S // 100 == sample.source + 1).all() for sample in samples)
    targets = Counter(target for sample in samples if sample.source == 1 for target in sample.targets_S.tolist())
    assert len(targets) == 48  # twelve windows: one epoch of the second file, no target twice


@pytest.mark.parametrize(("documents", "length"), [([], 1), ([[]], 1), ([[1]], 1), ([[1, 2], [3]], 3)])
def test_too_short_a_corpus(tmp_path, documents, length):
    write_tokens(tmp_path / "train", documents)
    file, tokens = TokenFile(tmp_path / "train"), sum(map(len, documents))
    with pytest.raises(DataError, match=f"holds {tokens} tokens, at least {length + 1}"):
        TrainingSet([(file, 1.0)], sequence_length=length, seed=0, document_mask=True)
    if tokens < 2:
        with pytest.raises(DataError, match=f"holds {tokens} tokens, at least 2"):
            ValidationSet(file, sequence_length=length, document_mask=True)


def test_a_file_of_weight_0_may_be_empty(tmp_path):
    write_tokens(tmp_path / "a", [[1, 2, 3]])
    write_tokens(tmp_path / "b", [])
    sources = [(TokenFile(tmp_path / "a"), 1.0), (TokenFile(tmp_path / "b"), 0.0)]
    assert TrainingSet(sources, sequence_length=2, seed=0, document_mask=True).sample(5).source == 0


@pytest.mark.parametrize(("bad", "dtype"), [(77, np.uint16), (-3, np.int32)])
def test_ids_outside_the_vocabulary_are_placed(tmp_path, bad, dtype):
    write_tokens(tmp_path / "train", [[1, 2], [3, 4, 9, 6], [7]], dtype)
    content = np.fromfile(tmp_path / "train.bin", dtype)
    content[4] = bad
    content.tofile(tmp_path / "train.bin")
    file = TokenFile(tmp_path / "train")
    says = rf"train\.bin holds the id {bad} \(document 1, offset 2\), but model.vocab_size=77"
    training = TrainingSet([(file, 1.0)], sequence_length=6, seed=0, document_mask=True, vocab_size=77)
    for index in range(5):  # windows of 7 tokens: the whole file, from another place each time
        with pytest.raises(DataError, match=says):
            training.sample(index)
    with pytest.raises(DataError, match=says):
        ValidationSet(file, sequence_length=6, document_mask=True, vocab_size=77).sample(0)


def test_stack_and_split(tmp_path):
    write_tokens(tmp_path / "train", random_documents(20, 9, 1000))
    training = TrainingSet([(TokenFile(tmp_path / "train"), 1.0)], sequence_length=8, seed=0, document_mask=True)
    samples = [training.sample(index) for index in (5, 1, 9, 2, 30, 7)]
    batch = stack(samples)
    assert batch.samples_B.tolist() == [5, 1, 9, 2, 30, 7]
    for number, micro in enumerate(batch.split(2)):
        expected = stack(samples[2 * number : 2 * number + 2])
        for field in fields(micro):
            mine, theirs = getattr(micro, field.name), getattr(expected, field.name)
            assert np.array_equal(mine, theirs), field.name
            assert mine.dtype == theirs.dtype
            assert np.shares_memory(mine, getattr(batch, field.name))
        assert micro.document_ids_B == tuple(sample.document_ids for sample in samples[2 * number : 2 * number + 2])
    for wrong in (0, 4, 7):
        with pytest.raises(ValueError, match=f"micro_size={wrong} must divide the 6"):
            batch.split(wrong)
