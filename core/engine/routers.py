"""What a step does for the routers of experts: the scale of their losses before it, the balance bias and the statistics after it."""

import torch.distributed as dist
from torch import nn

from ...conf.schema import Config
from ...parallel.context import ParallelContext
from ..model.routing import collect_routing, routing_metrics, set_auxiliary_scale, update_router_bias


class Routers:
    """The routers of a model, or of this rank's stages; a model without experts has none, and nothing is sent for them.

    Args:
        model: this rank's part.
        config: of the run.
        context: the process groups.
    """

    def __init__(self, model: nn.Module, config: Config, context: ParallelContext) -> None:
        self._model, self._config, self._context = model, config, context
        self._samples = 0  # of the step over all ranks

    def before_step(self, micro_batches: int) -> None:
        """Before a step of so many micro-batches on each rank."""
        samples = micro_batches * self._config.batch.micro_size * self._context.topology.dp
        if samples != self._samples:
            self._samples = samples
            # DeepSpeed averages gradients over the data axis; the objective is the mean over the global batch's samples.
            set_auxiliary_scale(self._model, self._context.data.size() / samples)

    def after_step(self) -> dict[str, float]:
        """Moves the balance biases by the load of the global batch, alike on all ranks; returns what is logged of the step's routing."""
        statistics = collect_routing(self._model, self._config.model)
        if statistics is None:
            return {}
        dist.all_reduce(statistics.rows_L, group=self._context.world)
        statistics.rows_L.div_(self._context.tensor.size())  # the ranks of one tensor group route alike
        update_router_bias(self._model, statistics.loads_LE, rate=self._config.model.router_bias_rate)
        return routing_metrics(statistics, samples=self._samples)

    def pass_over(self) -> dict[str, float]:
        """Forgets the load of a step that changed nothing; biases stay, and nothing is logged."""
        collect_routing(self._model, self._config.model)
        return {}
