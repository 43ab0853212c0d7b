"""A run folder and a server of our own: wandb sees nothing of the machine."""

import os
import tempfile
from pathlib import Path

import pytest

from .wandb_server import WandbServer


@pytest.fixture
def scratch():
    """Stands for /tmp; short, as wandb puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="hx-") as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, scratch):
    """A run folder; wandb sees a home and a /tmp of its own, and no settings of the machine."""
    home, folder = tmp_path / "home", tmp_path / "runs" / "x"
    home.mkdir()
    folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(scratch))
    return folder


@pytest.fixture
def online(monkeypatch):
    """Makes wandb talk to a server of ours; returns a function that starts it."""
    servers = []

    def start(status=200):
        servers.append(WandbServer(status))
        monkeypatch.setenv("WANDB_BASE_URL", servers[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        return servers[-1]

    yield start
    for server in servers:
        server.close()
