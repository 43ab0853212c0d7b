"""Row A7: a file server that loses sight of a file, for a moment or for ever, struck by strace into a real save."""

import time

import pytest

from .test_faults import keeping_one, needs_strace, newest_step, save, small, under_strace  # noqa: F401  (a fixture among them)


@needs_strace
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("call", ["openat", pytest.param("rename", marks=pytest.mark.nightly)])
def test_a_server_that_was_away_for_a_moment_is_not_noticed(tmp_path, call):
    """A7. Every eighth open of a save, each once; nightly each of its renames, too."""
    directory = tmp_path / "checkpoints"
    save(keeping_one(directory), 0, 10)
    for when in range(1, 60, 8 if call == "openat" else 1):
        code, trace = under_strace(directory, 20, "-e", f"trace={call}", "-e", f"inject={call}:error=ESTALE:when={when}")
        assert code == 0, (when, trace)
        assert newest_step(directory) == 20
        assert sorted(path.name for path in directory.iterdir()) == ["latest", "step-00000020"]
        if "INJECTED" not in trace:
            break
    assert when > 1


@needs_strace
@pytest.mark.usefixtures("small")
@pytest.mark.nightly
@pytest.mark.parametrize("call", ["openat", "rename", "mkdir"])
def test_a_server_that_stays_away_ends_the_save(tmp_path, call):
    """A7: exit 7 within 30 s."""
    directory = tmp_path / "checkpoints"
    save(keeping_one(directory), 0, 10)
    begun = time.monotonic()
    code, trace = under_strace(directory, 20, "-e", f"trace={call}", "-e", f"inject={call}:error=ESTALE")
    assert (code, time.monotonic() - begun < 3 * 30) == (7, True), trace
    assert newest_step(directory) == 10
