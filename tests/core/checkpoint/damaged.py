"""What the tests of damage share: two whole checkpoints, and what must happen when the newer one is damaged."""

import logging
from pathlib import Path

import pytest
import torch
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.errors import CheckpointError
from hexareme.parallel.partition import ShardSpec

from .layouts import small_state
from .ranks import alone


def blank() -> list[Fragment]:
    state, _ = small_state()
    return [
        Fragment(name, "parameter", ShardSpec.whole(tuple(tensor.shape)), 0, torch.full((tensor.numel(),), 77.0))
        for name, tensor in state.items()
    ]


def loads(directory: Path, *, must: bool = False) -> tuple[Checkpoint, list[Fragment]]:
    live = blank()
    found = alone(directory).load_newest(live, must=must)
    assert found is not None
    state, _ = small_state(found[0].step)
    for fragment in live:
        assert fragment.tensor.equal(state[fragment.name].view(-1))
    return found[0], live


def assert_falls_back(directory: Path, caplog, *names: str) -> None:
    """The newest is refused by name, before anything of it is used; the one before it serves, loudly."""
    with pytest.raises(CheckpointError) as caught:
        loads(directory, must=True)
    assert any(name in str(caught.value) for name in names), caught.value
    assert caught.value.exit_code == 4
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert loads(directory)[0].step == 10
    assert any(name in caplog.text for name in names)
