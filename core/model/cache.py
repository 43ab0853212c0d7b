"""Keys and values of the tokens that generation has already seen.

Shapes: B micro-batch, N kv heads here, S new tokens, K all, D head dim.
"""

import torch
from torch import Tensor


class KeyValueCache:
    """Room for the keys and values of every layer; memory is taken when a layer first writes.

    Args:
        capacity: most tokens it can hold.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._documents_BK: Tensor | None = None

    def append(self, layer: int, keys_BNSD: Tensor, values_BNSD: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one layer; returns all its keys and values so far, [B, N, K, D]."""
        if layer not in self._layers:
            B, N, _, D = keys_BNSD.shape
            self._layers[layer] = keys_BNSD.new_empty(B, N, self.capacity, D), values_BNSD.new_empty(B, N, self.capacity, D)
        stop = self.length + keys_BNSD.shape[2]
        if stop > self.capacity:
            raise ValueError(f"{stop} tokens do not fit the cache of {self.capacity}")
        keys, values = self._layers[layer]
        keys[:, :, self.length:stop] = keys_BNSD
        values[:, :, self.length:stop] = values_BNSD
        return keys[:, :, :stop], values[:, :, :stop]

    def append_documents(self, documents_BS: Tensor) -> Tensor:
        """Remember the segment numbers of the new tokens; returns those of all, [B, K]."""
        if self._documents_BK is None:
            self._documents_BK = documents_BS
        else:
            self._documents_BK = torch.cat((self._documents_BK, documents_BS), dim=1)
        return self._documents_BK

    def advance(self, count: int) -> None:
        """Count the new tokens, after every layer has written them."""
        self.length += count
