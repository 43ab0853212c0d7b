"""The layout of a command that reads a checkpoint: how many ranks it needs, and whether the saved model fits. Pure."""

from dataclasses import fields
from math import lcm

from ..conf.cluster_schema import ClusterConfig
from ..conf.errors import Problem
from ..conf.health_schema import HealthConfig
from ..conf.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LayoutConfig,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    ParallelConfig,
    RunConfig,
    ScheduleConfig,
    ScheduleName,
    TrackingConfig,
    TrainConfig,
)
from .layouts import data_degree, layout_problems


def needed_ranks(layout: LayoutConfig) -> int:
    """The fewest ranks that the degrees fill: experts lie inside the data and context axes."""
    return layout.tp * layout.pp * lcm(layout.cp, layout.ep)


def inference_problems(layout: LayoutConfig, model: ModelConfig, world_size: int) -> list[Problem]:
    """Why the saved model cannot lie on the ranks like this, each with the nearest layout that can; by the same table as training.

    Args:
        layout: the degrees.
        model: as it was saved.
        world_size: ranks there are.
    """
    return layout_problems(_as_training(layout, model, world_size), world_size)


def _as_training(layout: LayoutConfig, model: ModelConfig, world_size: int) -> Config:
    """The plainest training run with this layout and model: nothing in it but these can break a rule."""
    parallel = ParallelConfig(**{each.name: getattr(layout, each.name) for each in fields(LayoutConfig)}, zero=1, sequence_parallel=False)
    config = Config(run=RunConfig(name="inference"), train=TrainConfig(steps=1), batch=BatchConfig(global_size=1, micro_size=1),
                    model=model, parallel=parallel, data=DataConfig(train="unread"),
                    optimizer=OptimizerConfig(name=OptimizerName.adamw, learning_rate=1.0),
                    schedule=ScheduleConfig(name=ScheduleName.constant), checkpoint=CheckpointConfig(),
                    evaluation=EvaluationConfig(), health=HealthConfig(),
                    tracking=TrackingConfig(), cluster=ClusterConfig())
    # forward passes alone need no schedule: as many micro-batches as every schedule takes
    config.batch.global_size = max(1, data_degree(config, world_size)) * 2 * layout.pp * layout.virtual_stages
    return config
