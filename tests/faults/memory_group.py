"""A control group with a memory limit, of version 1 or 2, whichever this machine has."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(*, limit: int) -> Iterator[Callable[[], None]]:
    """Yields what puts the calling process, and all that it starts, into the group.

    Args:
        limit: bytes, swap included.
    """
    version_1 = ROOT / "memory"
    folder = (version_1 if version_1.is_dir() else ROOT) / f"hexareme-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version_1.is_dir() else ("memory.max", "memory.swap.max")
        if not (folder / names[0]).exists():
            pytest.skip(f"{folder} has no memory controller")
        (folder / names[0]).write_text(str(limit))
        with suppress(OSError):  # not every kernel counts swap
            (folder / names[1]).write_text(str(limit if version_1.is_dir() else 0))
        yield lambda: _join(folder)
    finally:
        for _ in range(100):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def _join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))
