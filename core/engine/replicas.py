"""Whether the copies of what several ranks hold are still equal, bit for bit.

What must be equal is found, not listed: two ranks that hold the same part of the same tensor of the training state hold replicas, whichever
axis put them there. So parameters along the data axis, norms and biases along the tensor axis, repeated kv heads, tied ends of a pipeline,
equal experts and balance biases are all covered by one rule, and a new layout cannot be forgotten.

Drift that nobody looked for ran for weeks in the training of BLOOM (its chronicle of 2022-03-24: layer norms of the tensor ranks).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...parallel.random import hashed, stream_key
from ..checkpoint.fragment import Fragment
from ..errors import DriftError

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
        factors = self._of_positions(flat.device)
        bits = flat.detach().view(_INTEGERS[flat.element_size()])
        total = torch.zeros((), dtype=torch.int64, device=flat.device)
        rows = 1 if flat.device.type == "cpu" else _ROWS_ON_DEVICE
        for index, chunk in enumerate(bits.split(rows * _ROW)):
            whole = len(chunk) // _ROW
            sums = (chunk[: whole * _ROW].view(whole, _ROW) * factors).sum(dim=1)
            rest = (chunk[whole * _ROW :] * factors[: len(chunk) - whole * _ROW]).sum()
            numbers = torch.arange(index * rows, index * rows + whole + 1, device=flat.device)
            total += (torch.cat((sums, rest[None])) * _odd(stream_key(0, "rows"), numbers)).sum()
        return total

    def _of_positions(self, device: torch.device) -> Tensor:
        if device not in self._factors:
            self._factors[device] = _odd(stream_key(0, "positions"), torch.arange(_ROW, device=device))
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
        self._places: frozenset[int] = frozenset()  # of this rank, when `_shared` was made
        self._shared: dict[int, int] = {}  # place -> its index, for those that several ranks hold; alike on all ranks

    def check(self) -> None:
        """Compare them over all ranks; collective, one reduction of 16 bytes a shared tensor.

        Raises:
            DriftError: on every rank, where some differ in any bit.
        """
        held = {_place(fragment): fragment for fragment in self._held() if fragment.shard.pieces and fragment.tensor.numel()}
        self._find_shared(held.keys())
        own = {place: self._digests.of(fragment.tensor) for place, fragment in held.items() if place in self._shared}
        drifted = self._drifted(own)
        if drifted:
            raise self._error(drifted, {place: fragment for place, fragment in held.items() if place in drifted}, own)

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

    def _error(self, drifted: Collection[int], held: dict[int, Fragment], own: dict[int, Tensor]) -> DriftError:
        """What differs where, agreed by all ranks."""
        rank, size = dist.get_rank(self._world), self._world.size()
        proposals = _gather(list(held)[:MOST_NAMED], self._world)
        named = list(dict.fromkeys(place for proposal in proposals for place in proposal))[:MOST_NAMED]
        sides = _gather({place: (int(own[place]), _label(held[place]), held[place].tensor.numel(), held[place].tensor.dtype)
                         for place in named if place in held}, self._world)
        texts, suspects = [], set()
        for place in named:
            holders = {number: sides[number][place] for number in range(size) if place in sides[number]}
            votes = Counter(digest for digest, *_ in holders.values()).most_common()
            agreeing = [number for number, (digest, *_) in holders.items() if digest == votes[0][0]]
            _, label, numel, dtype = holders[agreeing[0]]
            counts = _gather(self._differing(held.get(place), agreeing[0], numel, dtype), self._world)
            others = {number: counts[number] for number in holders if number not in agreeing}
            texts.append(f"{label}: " + ", ".join(f"{count} of {numel} values on rank {number}" for number, count in
                                                  list(others.items())[:MOST_RANKS]) + f" differ from {_ranks(agreeing)}")
            suspects |= set(others) if len(agreeing) > len(others) else set(holders)
        more = f"; and {len(drifted) - len(named)} more tensors" if len(drifted) > len(named) else ""
        assert rank >= 0
        return DriftError(f"replicas have drifted apart: {'; '.join(texts)}{more}",
                          do=f"have the machine of {_ranks(sorted(suspects))} checked, then start again: the newest checkpoint was "
                             "found equal when it was saved")

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


def _place(fragment: Fragment) -> int:
    """64 bits that are equal for two fragments exactly if they are the same part of the same tensor; never 0."""
    shard = fragment.shard
    return stream_key(0, fragment.name, fragment.kind, str(shard), fragment.start, fragment.tensor.numel()) or 1


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
