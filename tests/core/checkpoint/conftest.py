"""One thread for torch: a fork of a process whose OpenMP pool has started hangs in its first large tensor operation.

And two checkpoints, made once, for the tests that damage them.
"""

import shutil
from pathlib import Path

import pytest
import torch

from .layouts import Layout, small_state
from .test_round_trip import save

torch.set_num_threads(1)
LAYOUT = Layout(2, 2)


@pytest.fixture(scope="session")
def two_checkpoints(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    for step in (10, 20):
        state, cuts = small_state(step)
        save(directory, state, cuts, LAYOUT, step)
    return directory


@pytest.fixture
def directory(two_checkpoints, tmp_path) -> Path:
    return Path(shutil.copytree(two_checkpoints, tmp_path / "checkpoints"))
