"""A training run without data: the engine that training builds, fed with random tokens."""

import os
from dataclasses import dataclass
from math import prod

import torch

from ...conf.schema import Config
from ...parallel.context import ParallelContext
from ...parallel.topology import Topology
from ..batch import BatchPlan
from ..engine.build import Built
from ..engine.optimizer import parameter_groups
from ..engine.settings import deepspeed_settings
from ..expert_rules import expert_layers
from ..inputs import MicroBatch, cut_to_context
from ..model.input import ModelInput
from ..model.routing import set_routing_tape
from ..model.routing_tape import RoutingTape
from ..run import build
from ..traffic import Replicas, ZeroSwitches


@dataclass(frozen=True)
class Running:
    """One rank of it.

    Args:
        config: of the run.
        context: the process groups.
        plan: the batch.
        built: engine and state.
    """

    config: Config
    context: ParallelContext
    plan: BatchPlan
    built: Built

    def train_step(self, step: int) -> None:
        """One update on random tokens; to the model it is always step 0, so that routers find their choices."""
        self.built.engine.train_step([self._micro_batch(step, number) for number in range(self.plan.accumulation_steps)]).healthy()

    def _micro_batch(self, step: int, number: int) -> MicroBatch:
        model, size = self.config.model, self.config.batch.micro_size
        seed = (step * self.plan.accumulation_steps + number) * self.plan.dp + self.context.coordinate.dp
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(model.vocab_size, (size, model.sequence_length + 1), generator=generator)
        positions = torch.arange(model.sequence_length).repeat(size, 1)
        inputs = ModelInput(ids[:, :-1], positions, None, torch.arange(size), torch.tensor(0))
        groups = self.context.layer_groups(context_attention=self.config.parallel.context_attention.value)
        return cut_to_context(MicroBatch(inputs, ids[:, 1:], torch.ones(size, model.sequence_length)), groups)

    def switches(self) -> ZeroSwitches:
        """DeepSpeed's, as this run sets them."""
        settings = deepspeed_settings(self.config.train, self.config.parallel, micro_size=1, accumulation_steps=1, dp=1, pin_memory=False)
        return ZeroSwitches.of(settings["zero_optimization"])

    def replicas(self) -> list[Replicas]:
        """The rank's parameters by group of the optimizer, in the order in which ZeRO lays them out."""
        placed, apart = list(self.built.state.placed), self.context.expert.size() > 1
        by_id = {id(each.parameter): each for each in placed}
        found = []
        for group in parameter_groups(placed, self.config.optimizer, experts_apart=apart):
            members = [by_id[id(parameter)] for parameter in group["params"]]
            experts = apart and members[0].expert
            axis = self.context.expert_data if experts else self.context.data
            sizes = tuple(prod(each.shard.local_shape) for each in members)
            found.append(Replicas("expert_data" if experts else "data", axis.size(), axis.rank(), sizes))
        return found


def start(config: Config, *, rank: int, world_size: int) -> Running:
    """Builds groups, model and engine as training does. Collective.

    Args:
        config: of a training run; its data is not read.
        rank: of this process; torch.distributed is started.
        world_size: ranks.
    """
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    parallel, device = config.parallel, torch.device("cpu")
    topology = Topology.divide(world_size=world_size, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, ep=parallel.ep)
    context = ParallelContext.create(topology, rank)
    plan = BatchPlan.divide(global_size=config.batch.global_size, micro_size=config.batch.micro_size, dp=topology.dp)
    built = build(config, context, device, plan)
    set_routing_tape(built.engine.module, even_choices(config))
    return Running(config, context, plan, built)


def even_choices(config: Config) -> RoutingTape | None:
    """What every router is told to choose, so that each expert gets as many rows: neighbouring choices go to neighbouring experts."""
    model = config.model
    if not model.num_experts:
        return None
    places = torch.arange(model.sequence_length * model.experts_per_token) % model.num_experts
    choices = places.view(model.sequence_length, model.experts_per_token)
    return RoutingTape({(layer, 0, sample): choices for layer in expert_layers(model) for sample in range(config.batch.micro_size)})
