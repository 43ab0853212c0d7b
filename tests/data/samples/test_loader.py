"""The loader gives what the dataset gives, whatever was read ahead, and leaves no thread."""

import threading
import time
from dataclasses import fields

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.samples.batch import stack
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.samples.loader import Loader
from hexareme.data.tokens.token_file import TokenFile

from ..token_files import random_documents, write_tokens


@pytest.fixture
def training(tmp_path):
    write_tokens(tmp_path / "train", random_documents(100, 30, 1000))
    return TrainingSet([(TokenFile(tmp_path / "train"), 1.0)], sequence_length=16, seed=0, document_mask=True)


def samples_of(step):
    return range(4 * step, 4 * step + 4)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("hexareme-loader")]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("steps", [range(12), [5, 5, 0, 40, 41, 3, 2, 1], [7] * 4])
def test_batch_is_a_function_of_the_step(training, workers, steps):
    with Loader(training, local_samples=samples_of, workers=workers) as loader:
        for step in steps:
            batch, expected = loader.batch(step), stack([training.sample(index) for index in samples_of(step)])
            for field in fields(batch):
                assert np.array_equal(getattr(batch, field.name), getattr(expected, field.name)), field.name
        assert len(loader_threads()) <= workers
    assert loader_threads() == []


class Broken:
    """A dataset with one bad sample, which counts what it was asked for."""

    def __init__(self, whole):
        self.whole = whole
        self.asked = []

    def batch(self, indices, tick):
        self.asked += indices
        if 22 in indices:
            raise DataError("sample 22 is bad", do="mend it")
        return self.whole.batch(indices, tick)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_appears_at_its_own_step(training, workers):
    with Loader(Broken(training), local_samples=samples_of, workers=workers) as loader:
        for step in range(5):
            loader.batch(step)
        for _ in range(2):  # again if asked again
            with pytest.raises(DataError, match="sample 22"):
                loader.batch(5)
        assert loader.batch(6).samples_B[0] == 24
    assert loader_threads() == []


def test_it_reads_ahead_and_only_so_far(training):
    dataset = Broken(training)
    with Loader(dataset, local_samples=samples_of, workers=1) as loader:
        loader.batch(0)
        deadline = time.monotonic() + 10
        while len(dataset.asked) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(dataset.asked) == list(range(12))  # this step and two more


class Gated(Broken):
    """A dataset that stops at sample 4 until the gate opens."""

    def __init__(self, whole):
        super().__init__(whole)
        self.gate = threading.Event()

    def batch(self, indices, tick):
        if indices[0] >= 4:
            self.gate.wait(10)
        return super().batch(indices, tick)


def test_a_jump_forgets_what_was_to_be_read(training):
    dataset = Gated(training)
    with Loader(dataset, local_samples=samples_of, workers=1) as loader:
        loader.batch(0)  # step 1 is being read now, step 2 waits its turn
        opener = threading.Timer(0.1, dataset.gate.set)
        opener.start()
        assert loader.batch(100).samples_B[0] == 400
        opener.join()
    assert not set(dataset.asked) & set(samples_of(2))


def test_steps_are_not_read_twice(training):
    dataset = Broken(training)
    with Loader(dataset, local_samples=samples_of, workers=2) as loader:
        for step in range(5):
            loader.batch(step)
    assert len(dataset.asked) == len(set(dataset.asked))
