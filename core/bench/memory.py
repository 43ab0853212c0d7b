"""State that each rank holds, counted from live tensors, beside the theory."""

from dataclasses import asdict

from ...conf.schema import Config, OptimizerName
from ..engine.holdings import OTHER, held_bytes
from ..memory import state_bytes
from .running import Running, start
from .table import Row


def measure_memory(rank: int, config: Config, world_size: int) -> list[Row]:
    """What this rank holds before the second micro-batch of the second step, when every kind of state is there.

    Args:
        rank: of this process; torch.distributed is started.
        config: of a training run with accumulation; its data is not read.
        world_size: ranks.
    """
    running = start(config, rank=rank, world_size=world_size)
    running.train_step(0)
    engine, found = running.built.engine.deepspeed, []
    handle = engine.module.register_forward_pre_hook(lambda module, arguments: found.append(held_bytes(engine)))
    running.train_step(1)
    handle.remove()
    return rows(running, found[1])


def rows(running: Running, held: dict[str, int]) -> list[Row]:
    """Each kind of state, all of it, and what else lies there."""
    config = running.config
    moments = 2 if config.optimizer.name is OptimizerName.adamw else 0
    theory = state_bytes(config.parallel.zero, running.replicas(), running.switches(), moments=moments)
    expected = asdict(theory)
    lines = [Row(kind, "bytes", held[kind], expected[kind]) for kind in expected]
    lines.append(Row("state", "bytes", sum(held[kind] for kind in expected), theory.total))
    return [*lines, Row(OTHER, "bytes", held[OTHER], None)]
