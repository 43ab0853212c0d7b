"""A mixture of experts in the place of a block's MLP.

Shapes: B micro-batch, S tokens here, s this rank's shard of them under sequence parallelism, T = B * S, k choices, H hidden, Q rows that
arrive at the experts here.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ...conf.schema import ModelConfig
from ...parallel.collectives import copy_to_tensor_axis, enter_tensor_region, leave_tensor_region
from ...parallel.context import LayerGroups
from ...parallel.dispatch import combine, dispatch, plan_dispatch
from ...parallel.experts import ExpertColumnLinear, ExpertRowLinear
from ..expert_rules import expert_width, shared_width
from .activation import activated, feature_parts
from .input import Shared
from .mlp import MLP
from .router import Router


class Experts(nn.Module):
    """The experts that lie here, each down(activation(up(x))) of its rows.

    Args:
        config: sizes and activation.
        groups: whole experts are cut over the expert axis, the features inside over the tensor axis.

    Raises:
        ValueError: a degree does not fit.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups) -> None:
        super().__init__()
        self.activation = config.activation
        width = expert_width(config)
        self.up = ExpertColumnLinear(config.num_experts, config.hidden_size, parts=feature_parts(width, config.activation),
                                     bias=config.bias, expert=groups.expert, tensor=groups.tensor)
        self.down = ExpertRowLinear(config.num_experts, width, config.hidden_size, bias=config.bias, expert=groups.expert,
                                    tensor=groups.tensor)

    def forward(self, x_QH: Tensor, rows: list[int]) -> Tensor:
        """[Q, H], `rows` of each expert here -> [Q, H], this tensor rank's summand."""
        return self.down(activated(self.up(x_QH, rows), self.activation), rows)


class MixtureOfExperts(nn.Module):
    """Each token passes its k experts, weighted by the router's gates, and all shared experts (DeepSeekMoE, Dai et al. 2024).

    Args:
        config: sizes and switches.
        layer: number of the block.
        groups: the axes.

    Raises:
        ValueError: a degree does not fit.
    """

    def __init__(self, config: ModelConfig, *, layer: int, groups: LayerGroups) -> None:
        super().__init__()
        self.groups = groups
        self.router = Router(config, layer=layer, groups=groups)
        self.experts = Experts(config, groups=groups)
        self.shared = MLP(replace(config, ffn_hidden_size=shared_width(config)), groups=groups) if shared_width(config) else None

    @torch.compiler.disable  # the sizes of what is sent depend on the data
    def forward(self, x_BsH: Tensor, shared: Shared) -> Tensor:
        """[B, s, H] -> [B, s, H]."""
        y_BsH = self._routed(x_BsH, shared)
        return y_BsH if self.shared is None else y_BsH + self.shared(x_BsH)

    def _routed(self, x_BsH: Tensor, shared: Shared) -> Tensor:
        tensor, expert, sequence_parallel = self.groups.tensor, self.groups.expert, self.groups.sequence_parallel
        routing = self.router(x_BsH, shared)
        dtype = _product_dtype(x_BsH)
        x_BSH = enter_tensor_region(x_BsH.to(dtype), tensor, sequence_parallel=sequence_parallel)
        # every tensor rank has a summand of each expert's output, so its gradient of a gate is a summand too
        gates_BSk = copy_to_tensor_axis(routing.gates_BSk, tensor)
        plan = plan_dispatch(routing.experts_BSk.flatten(0, 1), num_experts=self.router.config.num_experts, group=expert,
                             kept_Tk=None if routing.kept_BSk is None else routing.kept_BSk.flatten(0, 1))
        rows_QH = self.experts(dispatch(x_BSH.flatten(0, 1), plan, expert), plan.rows)
        y_TkH = combine(rows_QH, plan, expert).float()
        y_BSH = (y_TkH * gates_BSk.flatten(0, 1)[..., None]).sum(dim=1).to(dtype).view_as(x_BSH)
        return leave_tensor_region(y_BSH, tensor, sequence_parallel=sequence_parallel)


def _product_dtype(x: Tensor) -> torch.dtype:
    """In which dtype products of `x` run: autocast's, if it is on. Rows travel in it, since they would be rounded to it anyway."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
