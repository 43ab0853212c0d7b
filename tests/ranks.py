"""Functions on N forked ranks, for tests: `core/forked_ranks.py` with what only tests want."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from hexareme.core.forked_ranks import RankError, run_ranks

__all__ = ["RankError", "run_ranks", "run_single", "world"]


def run_single(function: Callable[..., Any], *arguments: Any, timeout: float = 60.0) -> Any:
    """`function(0, *arguments)` on a world of one, in a fork, so that the test process itself never joins a group."""
    return run_ranks(function, 1, *arguments, timeout=timeout)[0]


def world() -> dist.ProcessGroup:
    """The group of all ranks of the case, inside a rank."""
    assert dist.group.WORLD is not None
    return dist.group.WORLD
