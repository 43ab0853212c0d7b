"""Rows B9 and B10: a changed config is refused with each difference, unless it is allowed by name; old checkpoints load for ever."""

import time

import pytest

from .rig import SLACK

STOP = ("train.stop_at=2", "checkpoint.interval=0")

# What is changed at the resume, and the keys that the refusal must name.
EDITS = {
    "batch size": (("batch.global_size=8",), ("batch.global_size",)),
}


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    """A run that stopped at step 2."""
    from .rig import Run

    run = Run(tmp_path_factory.mktemp("stopped"), corpus, *STOP)
    assert run.start(ranks=1).finish() == 0, run.starts[-1].text()
    return run


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_config_is_refused_field_by_field(stopped, edit):
    overrides, keys = EDITS[edit]
    start = stopped.start(*overrides, "train.stop_at=4", ranks=1)
    assert start.finish() == 4
    print(start.text(), time.monotonic() - start.begun)
    assert all(key in start.error_lines()[0] for key in keys)
