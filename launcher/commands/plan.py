"""`hexareme plan`: which rank of a run will hold what, and how much; nothing is started, read or written but `output`."""

import json
from pathlib import Path

from ...conf.compose import compose
from ...conf.errors import ConfigError
from ...conf.plan_schema import PlanConfig
from ...core.combine import problems
from ...core.planning.plan import Plan


def main(overrides: list[str]) -> int:
    """Prints the plan of a training run; takes what `hexareme train` takes.

    Returns:
        0.

    Raises:
        ConfigError: with every problem, and the nearest valid layout.
    """
    config = compose("plan", overrides)
    ranks = config.ranks or config.cluster.nodes * config.cluster.ranks_per_node
    if found := problems(config, world_size=ranks):
        raise ConfigError(found)
    plan = Plan.of(config, world_size=ranks, ranks_per_node=ranks_per_node(config, ranks))
    print(plan.text())
    if config.output:
        Path(config.output).write_text(json.dumps(plan.as_json(), indent=1) + "\n")
    return 0


def ranks_per_node(config: PlanConfig, ranks: int) -> int:
    """Ranks of one machine: planned ranks lie on one unless the config says how many a machine has."""
    return config.cluster.ranks_per_node if config.cluster.ranks_per_node > 1 or not config.ranks else ranks
