"""Dropout as a module: it knows its site, the forward pass tells the rest."""

from torch import Tensor, nn

from ...parallel.random import dropout
from .input import Shared


class Dropout(nn.Module):
    """Dropout whose mask belongs to (seed, step, site, sample, position, hidden index), not to a rank or a generator.

    Args:
        p: probability of zero.
        site_key: `stream_key` of seed, layer and site.
    """

    def __init__(self, p: float, *, site_key: int) -> None:
        super().__init__()
        self.p, self.site_key = p, site_key

    def forward(self, x_BSH: Tensor, shared: Shared) -> Tensor:
        """The identity while evaluating."""
        if not self.training or self.p == 0.0:
            return x_BSH
        return dropout(x_BSH, self.p, site_key=self.site_key, step=shared.step, samples_B=shared.samples_B,
                       positions_S=shared.residual_positions_S)
