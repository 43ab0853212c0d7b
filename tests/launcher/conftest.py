"""A run whose processes are gone after the test, whatever happened in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path)
    yield started
    started.close()
