"""What a rank holds of one tensor of the training state."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ...parallel.partition import ShardSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fragment:
    """A flat piece of a local tensor; saving reads its storage, loading writes into it.

    Args:
        name: full name of the parameter, e.g. `blocks.0.attention.qkv.weight`.
        kind: `parameter`, or the optimizer's word for its state: `exp_avg`, `exp_avg_sq`, `momentum_buffer`.
        shard: where the local tensor lies in the global one.
        start: the fragment is elements [start, start + tensor.numel()) of the flattened local tensor.
        tensor: 1-D, contiguous, a view of live storage on any device.
        write: whether this rank saves it; exactly one of several replicas does.
    """

    name: str
    kind: str
    shard: ShardSpec
    start: int
    tensor: "Tensor"
    write: bool = True

    def __post_init__(self) -> None:
        held = prod(self.shard.local_shape)
        end = self.start + self.tensor.numel()
        assert self.tensor.dim() == 1 and self.tensor.is_contiguous(), f"the fragment of {self.name} is not flat"
        assert self.start >= 0 and end <= held, f"the fragment of {self.name} is [{self.start}, {end}) of {held} elements"

    @property
    def dtype(self) -> str:
        """torch's name of the element type, e.g. `float32`."""
        return str(self.tensor.dtype).removeprefix("torch.")
