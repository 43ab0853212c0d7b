"""One random corpus for all rows, and runs that leave nothing behind."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hexareme.core.engine.overhead import write_random_corpus

from .rig import Run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random_corpus(tmp_path_factory.mktemp("corpus"), vocab_size=512, tokens=1 << 16))


@pytest.fixture(scope="session")
def reference(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    """What nobody disturbed: the course of the matrix's run on two ranks."""
    run = Run(tmp_path_factory.mktemp("reference"), corpus)
    assert run.start().finish() == 0, run.starts[0].text()
    return run.course()


@pytest.fixture
def new_run(corpus: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """`new_run("name", *overrides)`: a run in its own folder; closed after the test, which leaves no byte in /dev/shm."""
    runs: list[Run] = []
    shared = set(os.listdir("/dev/shm"))

    def new(name: str, *overrides: str, **options) -> Run:
        (tmp_path / name).mkdir()
        runs.append(Run(tmp_path / name, corpus, *overrides, **options))
        return runs[-1]

    yield new
    for run in runs:
        run.close()
    assert set(os.listdir("/dev/shm")) <= shared
