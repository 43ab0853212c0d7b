"""Whether the copies of what several ranks hold are still equal, bit for bit.

What must be equal is found, not listed: two ranks that hold the same part of the same tensor of the training state hold replicas, whichever
axis put them there. So parameters along the data axis, norms and biases along the tensor axis, repeated kv heads, tied ends of a pipeline,
equal experts and balance biases are all covered by one rule, and a new layout cannot be forgotten.

Drift that nobody looked for ran for weeks in the training of BLOOM (its chronicle of 2022-03-24: layer norms of the tensor ranks).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...parallel.random import hashed, stream_key
from ..checkpoint.fragment import Fragment
from ..errors import DriftError

_log = logging.getLogger(__name__)

MOST_NAMED = 5  # tensors in one message
MOST_RANKS = 8  # of one list of ranks in it
_ROW = 1 << 16  # elements that are multiplied at a time: their products stay in a processor's cache
_ROWS_ON_DEVICE = 64  # rows at a time where each operation is a launch
_CHUNK = 1 << 22  # elements sent at a time where differing values are counted
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # of the same width in bytes
_NOTHING = torch.iinfo(torch.int64).min  # brought by ranks that do not hold the tensor


class Digests:
    """Numbers of 64 bits that tell tensors apart: the sum of the elements' bits, each times an odd number that belongs to its position.

    All modulo 2^64, where an odd factor has an inverse: a change of one element is always seen, one of several but for a chance of about
    2^-64. The same on every device, in any order of summation.
    """

    def __init__(self) -> None:
        self._factors: dict[torch.device, Tensor] = {}

    def of(self, flat: Tensor) -> Tensor:
        """0-d int64, on the tensor's device.

        Args:
            flat: 1-D, contiguous, of any type of at most 8 bytes.
        """
        factors = self._of_places(flat.device)
        bits = flat.detach().view(_INTEGERS[flat.element_size()])
        if len(bits) <= _ROW:  # most tensors of a small model: few operations count
            return (bits * factors[: len(bits)]).sum()
        at_once = _ROW if flat.device.type == "cpu" else _ROWS_ON_DEVICE * _ROW
        return torch.stack([self._of_rows(chunk, index * at_once // _ROW) for index, chunk in enumerate(bits.split(at_once))]).sum()

    def _of_rows(self, bits: Tensor, first: int) -> Tensor:
        """The sum over some rows, each times its own factor; row 0 has 1."""
        factors, whole = self._of_places(bits.device), len(bits) // _ROW
        sums = (bits[: whole * _ROW].view(whole, _ROW) * factors).sum(dim=1)
        rest = (bits[whole * _ROW :] * factors[: len(bits) - whole * _ROW]).sum()
        rows = torch.arange(first, first + whole + 1, device=bits.device)
        of_rows = torch.where(rows == 0, 1, _odd(stream_key(0, "rows"), rows))
        return (torch.cat((sums, rest[None])) * of_rows).sum()

    def _of_places(self, device: torch.device) -> Tensor:
        if device not in self._factors:
            self._factors[device] = _odd(stream_key(0, "places in a row"), torch.arange(_ROW, device=device))
        return self._factors[device]


class Replicas:
    """All tensors of the training state that more than one rank holds.

    Args:
        held: gives this rank's part of the state as flat views of live storage.
        world: every rank.
        device: where tensors lie that are sent.
    """

    def __init__(self, held: Callable[[], Iterable[Fragment]], *, world: dist.ProcessGroup, device: torch.device) -> None:
        self._held, self._world, self._device = held, world, device
        self._digests = Digests()
        self._known: dict[tuple[Any, ...], int] = {}  # what a fragment is -> its place
        self._places: frozenset[int] = frozenset()  # of this rank, when `_shared` was made
        self._shared: dict[int, int] = {}  # place -> its index, for those that several ranks hold; alike on all ranks

    def check(self) -> None:
        """Compare them over all ranks; collective, one reduction of 16 bytes a shared tensor.

        Raises:
            DriftError: on every rank, where some differ in any bit.
        """
        held = {self._place(fragment): fragment for fragment in self._held() if fragment.shard.pieces and fragment.tensor.numel()}
        self._find_shared(held.keys())
        own = {place: self._digests.of(fragment.tensor) for place, fragment in held.items() if place in self._shared}
        drifted = self._drifted(own)
        if drifted:
            mine = {place: fragment for place, fragment in held.items() if place in drifted}
            raise self._error(mine, own, drifted=len(drifted))

    def _place(self, fragment: Fragment) -> int:
        """64 bits that are equal for two fragments exactly if they are the same part of the same tensor; never 0."""
        part = (fragment.name, fragment.kind, fragment.shard, fragment.start, fragment.tensor.numel())
        if part not in self._known:
            self._known[part] = stream_key(0, *map(str, part)) or 1
        return self._known[part]

    def _find_shared(self, places: Collection[int]) -> None:
        """Which tensors several ranks hold; asked again only where some rank's have changed (moments come with the first update)."""
        changed = torch.tensor(int(self._places != places), device=self._device)
        dist.all_reduce(changed, op=dist.ReduceOp.MAX, group=self._world)
        if not changed:
            return
        most = torch.tensor(len(places), device=self._device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self._world)
        own = torch.zeros(int(most), dtype=torch.int64)
        own[: len(places)] = torch.tensor(list(places), dtype=torch.int64)
        everyone = torch.zeros(self._world.size() * len(own), dtype=torch.int64, device=self._device)
        dist.all_gather_into_tensor(everyone, own.to(self._device), group=self._world)
        found, holders = torch.unique(everyone, return_counts=True)
        shared = found[(holders > 1) & (found != 0)].tolist()
        self._places, self._shared = frozenset(places), {place: index for index, place in enumerate(shared)}

    def _drifted(self, own: dict[int, Tensor]) -> set[int]:
        """The places whose digests differ between ranks, alike on all ranks: largest and smallest digest in one reduction."""
        largest = torch.full((2, len(self._shared)), _NOTHING, dtype=torch.int64, device=self._device)
        if own:
            digests = torch.stack([each.to(self._device) for each in own.values()])
            indices = torch.tensor([self._shared[place] for place in own], device=self._device)
            largest[0, indices], largest[1, indices] = digests, ~digests  # ~ turns the order round: its largest is the smallest
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._world)
        differ = (largest[0] != ~largest[1]).tolist()
        return {place for place, index in self._shared.items() if differ[index]}

    def _error(self, held: dict[int, Fragment], own: dict[int, Tensor], *, drifted: int) -> DriftError:
        """What differs where, agreed by all ranks; the log names every tensor, the message a few.

        Args:
            held: this rank's drifted tensors, by place.
            own: digests of this rank.
            drifted: how many tensors, over all ranks.
        """
        _log.error("of this rank these differ from their replicas: %s", ", ".join(map(_label, held.values())) or "none")
        proposals = _gather(list(held)[:MOST_NAMED], self._world)
        named = list(dict.fromkeys(place for proposal in proposals for place in proposal))[:MOST_NAMED]
        digests = _gather({place: int(own[place]) for place in named if place in held}, self._world)
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
        suspects: set[int] = set()
        for place in named:
            holders = {rank: mine[place] for rank, mine in enumerate(digests) if place in mine}
            usual = Counter(holders.values()).most_common(1)[0][0]
            agreeing = tuple(rank for rank, digest in holders.items() if digest == usual)
            others = tuple(rank for rank in holders if rank not in agreeing)
            suspects |= set(others if len(agreeing) > len(others) else holders)  # of two that differ, none is known to be right
            found.setdefault((others, agreeing), []).append(self._counted(held.get(place), source=agreeing[0]))
        texts = [f"{_ranks(others)} against {_ranks(agreeing)}: {', '.join(tensors)}" for (others, agreeing), tensors in found.items()]
        more = f"; and {drifted - len(named)} more tensors" if drifted > len(named) else ""
        return DriftError(f"replicas have drifted apart: {'; '.join(texts)}{more}",
                          do=f"have the machine of {_ranks(sorted(suspects))} checked, then start again: the checkpoints were found equal")

    def _counted(self, fragment: Fragment | None, *, source: int) -> str:
        """A tensor's name, and how many of its values differ on the rank that has most. Collective."""
        described = None if fragment is None else (_label(fragment), fragment.tensor.numel(), fragment.tensor.dtype)
        label, numel, dtype = _gather(described, self._world)[source]
        count = max(_gather(self._differing(fragment, source, numel, dtype), self._world))
        return f"{label} ({count} of {numel} values)"

    def _differing(self, fragment: Fragment | None, source: int, numel: int, dtype: torch.dtype) -> int:
        """How many values of this rank's replica differ from the source's; 0 where it has none. Collective."""
        count = 0
        for begin in range(0, numel, _CHUNK):
            size = min(_CHUNK, numel - begin)
            mine = None if fragment is None else fragment.tensor.detach()[begin : begin + size].to(self._device)
            right = torch.empty(size, dtype=dtype, device=self._device) if mine is None else mine.clone()
            dist.broadcast(right, group=self._world, group_src=source)
            if mine is not None:
                bits = _INTEGERS[mine.element_size()]
                count += int((mine.view(bits) != right.view(bits)).sum())
        return count


def _odd(key: int, numbers: Tensor) -> Tensor:
    """An odd factor for each number."""
    return hashed(key, numbers) | 1


def _label(fragment: Fragment) -> str:
    return fragment.name if fragment.kind == "parameter" else f"{fragment.name} ({fragment.kind})"


def _ranks(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:MOST_RANKS])) + (f" and {len(numbers) - MOST_RANKS} more" if len(numbers) > MOST_RANKS else "")
    return f"rank {listed}" if len(numbers) == 1 else f"ranks {listed}"


def _gather(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """The value of every rank."""
    values: list[Any] = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values
