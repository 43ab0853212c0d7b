"""A small real corpus, prepared once, and a user who leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .user import ROOT, User


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own source, as `hexareme prepare` makes it."""
    folder = tmp_path_factory.mktemp("prepared")
    code, out, err = User(folder).hexareme("prepare", f"input={ROOT}/core", "output=corpus", "tokenizer.kind=byte_bpe",
                                           "tokenizer.vocab_size=512", "held_out=0.1")
    assert code == 0, out + err
    return folder / "corpus"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Whatever a test starts must end by itself and leave no byte in /dev/shm."""
    user = User(tmp_path)
    yield user
    left = user.leftovers()
    user.kill_everything()
    assert not left
