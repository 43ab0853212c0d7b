"""One rig for all tests of a session, a small corpus, and a user who sits at host n0."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import corpus

from .rig import Rig, why_not
from .user import HostsUser

__all__ = ["corpus"]


@pytest.fixture(scope="session")
def shared_rig() -> Iterator[Rig]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="hxrig") as folder:
        rig = Rig(Path(folder), 2, Path(sys.executable).parent)
        yield rig
        rig.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    yield shared_rig
    shared_rig.mend()


@pytest.fixture
def user(rig: Rig, tmp_path: Path) -> Iterator[HostsUser]:
    """Whatever a test starts, on any host, must end by itself and leave no byte in /dev/shm."""
    user = HostsUser(tmp_path, rig)
    yield user
    left = user.leftovers()
    user.kill_everything()
    assert not left
