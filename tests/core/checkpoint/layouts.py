"""A training state cut for a layout by torch's own split, chunk and pad: the independent judge of what a checkpoint must restore."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.parallel.partition import ShardSpec, shard_padded, shard_parts

UNTOUCHED = 77.0  # fills live storage before a load; padding must keep it


@dataclass(frozen=True)
class Layout:
    """tp ranks times zero ranks; rank = zero_index * tp + tp_index."""

    tp: int
    zero: int

    @property
    def world_size(self) -> int:
        return self.tp * self.zero


@dataclass(frozen=True)
class Cut:
    """How one tensor is cut along the tensor axis: whole, in parts (a fused projection), or in padded blocks (a vocabulary)."""

    name: str
    how: str
    dim: int
    parts: tuple[int, ...]

    def spec(self, tensor: torch.Tensor, tp: int, index: int) -> ShardSpec:
        if self.how == "whole":
            return ShardSpec.whole(tuple(tensor.shape))
        if self.how == "parts":
            return shard_parts(tuple(tensor.shape), dim=self.dim, parts=self.parts, degree=tp, index=index)
        return shard_padded(tuple(tensor.shape), dim=self.dim, degree=tp, index=index)

    def local(self, tensor: torch.Tensor, tp: int, index: int) -> torch.Tensor:
        if self.how == "whole":
            return tensor
        if self.how == "parts":
            return torch.cat([part.chunk(tp, self.dim)[index] for part in tensor.split(self.parts, self.dim)], self.dim)
        each = -(-tensor.shape[self.dim] // tp)
        padding = list(tensor.shape)
        padding[self.dim] = each * tp - tensor.shape[self.dim]
        padded = torch.cat([tensor, torch.full(padding, UNTOUCHED, dtype=tensor.dtype)], self.dim)
        return padded.split(each, self.dim)[index]


Held = tuple[Cut, ShardSpec, int, torch.Tensor]


def local_flat(state: dict[str, torch.Tensor], cuts: Sequence[Cut], layout: Layout, rank: int) -> list[Held]:
    """(cut, spec, start, elements) of what a rank holds: ZeRO cuts the concatenated local tensors into equal flat ranges."""
    tp_index, zero_index = rank % layout.tp, rank // layout.tp
    locals_ = [(cut, cut.spec(state[cut.name], layout.tp, tp_index), cut.local(state[cut.name], layout.tp, tp_index)) for cut in cuts]
    total = sum(tensor.numel() for _, _, tensor in locals_)
    each = -(-total // layout.zero)
    low, high = zero_index * each, (zero_index + 1) * each
    held = []
    position = 0
    for cut, spec, tensor in locals_:
        begin, end = max(low - position, 0), min(high - position, tensor.numel())
        if begin < end:
            held.append((cut, spec, begin, tensor.reshape(-1)[begin:end].clone()))
        position += tensor.numel()
    return held


def fragments(held: Sequence[Held], layout: Layout, rank: int, *, blank: bool = False) -> list[Fragment]:
    """Fragments over live storage: the state's values, or `UNTOUCHED` for a load."""
    first_of_replicas = rank % layout.tp == 0
    return [
        Fragment(
            name=cut.name,
            kind="parameter",
            shard=spec,
            start=start,
            tensor=torch.full_like(elements, UNTOUCHED) if blank else elements,
            write=cut.how != "whole" or first_of_replicas,
        )
        for cut, spec, start, elements in held
    ]


def small_state(seed: int = 0) -> tuple[dict[str, torch.Tensor], list[Cut]]:
    """A little model: a padded vocabulary, a fused projection, a row-cut matrix, a norm, and a scalar."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {"embedding": normal(11, 8), "qkv": normal(24, 8), "output": normal(8, 12), "norm": normal(8), "scale": normal()}
    cuts = [
        Cut("embedding", "padded", 0, ()),
        Cut("qkv", "parts", 0, (12, 6, 6)),
        Cut("output", "parts", 1, (12,)),
        Cut("norm", "whole", 0, ()),
        Cut("scale", "whole", 0, ()),
    ]
    return state, cuts
