"""What routers tell and are told from outside: statistics, the balance bias, the scale of their losses, and a tape of their choices.

Shapes: L layers of the whole model, E experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...conf.schema import ModelConfig
from .router import Router
from .routing_tape import RoutingTape


@dataclass(frozen=True)
class RoutingStatistics:
    """What the routers counted since they were last asked; sums, so ranks are joined by adding `rows_L` up.

    Args:
        rows_L: [L, E + 3] float64: choices of each expert, dropped choices, and over the samples the sums of balance loss and z-loss (both
            without their coefficients). Blocks without experts have zeros.
    """

    rows_L: Tensor

    @property
    def loads_LE(self) -> Tensor:
        """Choices that fell on each expert, dropped ones included."""
        return self.rows_L[:, :-3]


def collect_routing(model: nn.Module, config: ModelConfig) -> RoutingStatistics | None:
    """This rank's statistics, which start again from zero; None for a model without experts.

    Args:
        model: a transformer, or several stages of one.
        config: of the whole model.
    """
    if not config.num_experts:
        return None
    device = next(model.parameters()).device
    rows_L = torch.zeros(config.num_layers, config.num_experts + 3, dtype=torch.float64, device=device)
    for layer, router in _routers(model).items():
        if router.statistics is not None:
            rows_L[layer] = router.statistics
        router.statistics = None
    return RoutingStatistics(rows_L)


def routing_metrics(statistics: RoutingStatistics, *, samples: int) -> dict[str, float]:
    """What is logged of a step.

    Args:
        statistics: added up over the ranks that hold different tokens or layers.
        samples: of the step, over all ranks.

    Returns:
        expert_load_max: the fullest expert of any layer, in units of its layer's mean load (1: even);
        dropped_fraction: of all choices; balance_loss (1: even) and z_loss: means over samples and layers, without their coefficients.
    """
    rows = statistics.rows_L[statistics.loads_LE.sum(dim=1) > 0].cpu()
    if not len(rows):
        return {"expert_load_max": 0.0, "dropped_fraction": 0.0, "balance_loss": 0.0, "z_loss": 0.0}
    loads, (dropped, balance, z) = rows[:, :-3], rows[:, -3:].sum(dim=0).tolist()
    return {"expert_load_max": float((loads.amax(dim=1) / loads.mean(dim=1)).max()), "dropped_fraction": dropped / float(loads.sum()),
            "balance_loss": balance / (samples * len(rows)), "z_loss": z / (samples * len(rows))}


@torch.no_grad()
def update_router_bias(model: nn.Module, loads_LE: Tensor, *, rate: float) -> None:
    """Loss-free balancing: the bias of an overloaded expert falls by `rate`, that of an underloaded one rises (Wang et al. 2024).

    Args:
        model: a transformer, or several stages of one; routers without a bias stay as they are.
        loads_LE: choices of the whole global batch, the same on all ranks.
        rate: model.router_bias_rate.
    """
    for layer, router in _routers(model).items():
        if router.bias is not None:
            loads_E = loads_LE[layer].to(router.bias.device)
            router.bias += rate * (loads_E.mean() - loads_E).sign().to(router.bias.dtype)


def set_auxiliary_scale(model: nn.Module, scale: float) -> None:
    """Let every router's auxiliary loss enter this rank's objective times `scale`.

    Where gradients are averaged over a data group and the objective is the mean over the global batch's samples, that is the group's size
    / global batch size.
    """
    for router in _routers(model).values():
        router.auxiliary_scale = scale


def set_routing_tape(model: nn.Module, tape: RoutingTape | None) -> None:
    """Let every router record on this tape, or follow it; None: neither."""
    for router in _routers(model).values():
        router.tape = tape


def _routers(model: nn.Module) -> dict[int, Router]:
    """The routers of a model by number of their block."""
    return {module.layer: module for module in model.modules() if isinstance(module, Router)}
