"""Which experts a token is sent to, and with which weight. Shapes: B samples, S tokens here, s this rank's shard of them under sequence
parallelism, H hidden, E experts, k choices."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...conf.schema import ModelConfig, RouterBalance, RouterScore
from ...parallel.collectives import gather_sequence_alike, residual_parameters
from ...parallel.context import LayerGroups
from ...parallel.recompute import recomputing
from .balance import attach_loss, balance_loss, choices_of_experts, z_loss
from .capacity import expert_capacity, kept_choices
from .input import Shared
from .routing_tape import RoutingTape

_TINY = 1e-20  # no chosen score of a sigmoid is 0 in exact arithmetic


class Routing(NamedTuple):
    """What the router decided, alike on every rank of the tensor axis.

    Args:
        experts_BSk: int64, first choice first.
        gates_BSk: fp32 weights of the experts' outputs.
        kept_BSk: bool, choices within the experts' capacity; None: all.
    """

    experts_BSk: Tensor
    gates_BSk: Tensor
    kept_BSk: Tensor | None


class Router(nn.Module):
    """Top-k routing (Shazeer et al. 2017) in fp32, with its auxiliary losses, its balance bias and its statistics.

    Capacity and auxiliary losses act while training; evaluation and generation drop nothing.

    Args:
        config: sizes and switches.
        layer: number of the block.
        groups: the axes; the router lies whole on every rank.

    Attributes:
        auxiliary_scale: factor of the auxiliary losses in this rank's objective; `set_auxiliary_scale` sets it.
        tape: records or replays the choices; None: neither.
        statistics: [E + 3] float64 since they were last collected: choices of each expert, dropped choices, and over the samples the sums
            of balance loss and z-loss; None: no forward pass yet.
    """

    def __init__(self, config: ModelConfig, *, layer: int, groups: LayerGroups) -> None:
        super().__init__()
        if config.experts_per_token > config.num_experts:
            raise ValueError(f"model.experts_per_token={config.experts_per_token} must be at most model.num_experts={config.num_experts}")
        self.config, self.layer, self.groups = config, layer, groups
        self.auxiliary_scale = 1.0
        self.tape: RoutingTape | None = None
        self.statistics: Tensor | None = None
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(config.num_experts) if config.router_balance == RouterBalance.bias else None)

    def forward(self, x_BsH: Tensor, shared: Shared) -> Routing:
        """[B, s, H] -> the experts of all S tokens."""
        config, context = self.config, self.groups.context
        logits_BSE = self._logits(x_BsH)
        scores_BSE = logits_BSE.sigmoid() if config.router_score == RouterScore.sigmoid else logits_BSE.softmax(dim=-1)
        experts_BSk = self._choose(scores_BSE.detach(), shared)
        gates_BSk = scores_BSE.gather(-1, experts_BSk)
        if config.router_normalize:
            gates_BSk = gates_BSk / (gates_BSk.sum(dim=-1, keepdim=True) + _TINY)
        if not self.training:
            return Routing(experts_BSk, gates_BSk, None)
        kept_BSk = None
        if config.expert_capacity_factor > 0:
            capacity = expert_capacity(config.expert_capacity_factor, tokens=experts_BSk.shape[1] * context.size(),
                                       choices=config.experts_per_token, num_experts=config.num_experts)
            kept_BSk = kept_choices(experts_BSk, shared.positions_S, capacity=capacity, num_experts=config.num_experts, context=context)
        counts_BE = choices_of_experts(experts_BSk, config.num_experts)
        shares_BSE = scores_BSE / scores_BSE.sum(dim=-1, keepdim=True) if config.router_score == RouterScore.sigmoid else scores_BSE
        balance = balance_loss(shares_BSE, counts_BE, choices=config.experts_per_token, context=context).sum()
        z = z_loss(logits_BSE, context=context).sum()
        self._count(counts_BE, kept_BSk, balance, z)
        loss = config.router_z_coefficient * z
        if config.router_balance == RouterBalance.loss:
            loss = loss + config.router_balance_coefficient * balance
        return Routing(experts_BSk, attach_loss(gates_BSk, loss, self.auxiliary_scale), kept_BSk)

    def _logits(self, x_BsH: Tensor) -> Tensor:
        """fp32 [B, S, E], whatever the precision of the other products: a rounding here changes the choice (Switch Transformer, 2.4)."""
        tensor, sequence_parallel = self.groups.tensor, self.groups.sequence_parallel
        (weight,) = residual_parameters(self.weight, group=tensor, sequence_parallel=sequence_parallel)
        with torch.autocast(x_BsH.device.type, enabled=False):
            logits = F.linear(x_BsH.float(), weight.float())
        return gather_sequence_alike(logits, tensor) if sequence_parallel else logits

    def _choose(self, scores_BSE: Tensor, shared: Shared) -> Tensor:
        """The k experts of highest score; the balance bias takes part here only (Wang et al. 2024, auxiliary-loss-free balancing)."""
        preference_BSE = scores_BSE if self.bias is None else scores_BSE + self.bias
        experts_BSk = preference_BSE.topk(self.config.experts_per_token, dim=-1).indices
        if self.tape is None:
            return experts_BSk
        return self.tape.follow(self.layer, shared, experts_BSk, preference_BSE, count=not recomputing())

    @torch.no_grad()
    def _count(self, counts_BE: Tensor, kept_BSk: Tensor | None, balance: Tensor, z: Tensor) -> None:
        """Add up on the device, without waiting for it, and not again where the backward pass repeats the forward pass."""
        if recomputing():
            return
        dropped = torch.zeros_like(balance) if kept_BSk is None else (~kept_BSk).sum()
        step = torch.cat((counts_BE.sum(dim=0).double(), torch.stack((dropped.double(), balance.double(), z.double()))))
        self.statistics = step if self.statistics is None else self.statistics + step
