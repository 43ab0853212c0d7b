"""Whether a load filled every tensor exactly once, over all ranks. Pure.

Each rank counts what it filled of each tensor: elements, the sum of their flat indices, and the sum of the squares. These are added up
over the ranks, five integers for each tensor whatever the number of ranks. They equal those of the whole tensor if each element was
filled once; a gap that an overlap hides in the count shows in the sums.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..errors import CheckpointError
from .dtypes import ITEM_SIZES
from .manifest import SavedTensor
from .slices import Box, index_moments
from .storage import in_words

MOST_LISTED = 5
_MODULUS = 2**64  # sums wrap around, as the integers that ranks add up do


@dataclass(slots=True)
class Filled:
    """What was filled of one tensor.

    Args:
        elements: by fragments that save them: over all ranks each element stands once.
        first, second: sums of the flat indices of those elements, and of their squares.
        replicas: elements that were filled besides, in copies that are not saved.
        slices: saved slices, or parts of them, that were copied.
    """

    elements: int = 0
    first: int = 0
    second: int = 0
    replicas: int = 0
    slices: int = 0

    def add(self, box: Box, shape: tuple[int, ...], *, saved_from_here: bool) -> None:
        """Count a box of the tensor."""
        if not saved_from_here:
            self.replicas += box.size
            return
        first, second = index_moments(box, shape)
        self.elements += box.size
        self.first += first
        self.second += second

    def wrapped(self) -> list[int]:
        """As signed 64-bit integers."""
        return [_wrap(value) for value in (self.elements, self.first, self.second, self.replicas, self.slices)]


FIELDS = 5  # of `wrapped`


@dataclass
class Tally:
    """What one rank filled.

    Args:
        filled: by (name, kind).
    """

    filled: dict[tuple[str, str], Filled] = field(default_factory=dict)

    def add(self, saved: SavedTensor, box: Box, *, saved_from_here: bool, slices: int) -> None:
        """Count a box of a tensor."""
        entry = self.filled.setdefault((saved.name, saved.kind), Filled())
        entry.add(box, saved.shape, saved_from_here=saved_from_here)
        entry.slices += slices


@dataclass(frozen=True)
class Account:
    """Every tensor of a load, over all ranks.

    Args:
        folder: of the checkpoint.
        rows: each tensor with what was filled of it.
    """

    folder: Path
    rows: Sequence[tuple[SavedTensor, Filled]]

    def line(self) -> str:
        """The whole in one line."""
        elements, slices = sum(filled.elements for _, filled in self.rows), sum(filled.slices for _, filled in self.rows)
        files = {part.file for tensor, _ in self.rows for part in tensor.slices}
        size = in_words(sum(filled.elements * ITEM_SIZES[tensor.dtype] for tensor, filled in self.rows))
        copies = sum(filled.replicas for _, filled in self.rows)
        besides = f"; {copies:,} elements of copies besides" if copies else ""
        return (f"loaded {self.folder.name}: {len(self.rows)} tensors filled exactly once, {elements:,} elements ({size}) "
                f"by {slices:,} slices from {len(files)} {'file' if len(files) == 1 else 'files'}{besides}")

    def table(self) -> str:
        """A row for each tensor."""
        return "\n".join([f"{'tensor':<52} {'kind':<12} {'saved as':<10} {'elements':>14} {'copies':>14} {'slices':>7}  files"]
                         + [self._row(tensor, filled) for tensor, filled in self.rows])

    def _row(self, tensor: SavedTensor, filled: Filled) -> str:
        files = {part.file for part in tensor.slices}
        return (f"{tensor.name:<52} {tensor.kind:<12} {tensor.dtype:<10} {filled.elements:>14,} {filled.replicas:>14,} "
                f"{filled.slices:>7,}  {brief(sorted(files))}")


def settle(tally: Tally, tensors: Iterable[SavedTensor], folder: Path, *, kinds: Collection[str] | None,
           add_up: Callable[[list[int]], list[int]]) -> Account:
    """Add up what all ranks filled. Collective.

    Args:
        tally: of this rank.
        tensors: of the checkpoint, in the same order on all ranks.
        folder: of the checkpoint.
        kinds: that were to be loaded; None: all.
        add_up: the sums over all ranks of a list of 64-bit integers, which wrap around.

    Raises:
        CheckpointError: on every rank, where a tensor was not filled exactly once.
    """
    wanted = [tensor for tensor in tensors if kinds is None or tensor.kind in kinds]
    none = Filled()
    mine = [value for tensor in wanted for value in tally.filled.get((tensor.name, tensor.kind), none).wrapped()]
    sums = [_wrap(value) for value in add_up(mine)]
    rows = [(tensor, Filled(*sums[FIELDS * i : FIELDS * (i + 1)])) for i, tensor in enumerate(wanted)]
    faults = [fault for tensor, filled in rows if (fault := _fault(tensor, filled))]
    if faults:
        raise _unaccounted(folder, faults)
    return Account(folder, rows)


def brief(names: Sequence[str]) -> str:
    """A list of file names that does not fill the screen."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)} files)"


def _fault(tensor: SavedTensor, filled: Filled) -> str | None:
    size, label = prod(tensor.shape), f"{tensor.name} ({tensor.kind})"
    if filled.elements != size:
        return f"{label}: {filled.elements:,} elements were filled, it has {size:,}"
    whole = Box(tuple(0 for _ in tensor.shape), tensor.shape)
    if [filled.first, filled.second] != [_wrap(value) for value in index_moments(whole, tensor.shape)]:
        return f"{label}: some elements were filled twice and others not at all"
    return None


def _unaccounted(folder: Path, faults: Sequence[str]) -> CheckpointError:
    more = f"; and {len(faults) - MOST_LISTED} more" if len(faults) > MOST_LISTED else ""
    return CheckpointError(f"{folder} was not loaded exactly once: {'; '.join(faults[:MOST_LISTED])}{more}",
                           do="report this: this layout does not take the checkpoint up wholly", file=str(folder))


def _wrap(value: int) -> int:
    return (value + _MODULUS // 2) % _MODULUS - _MODULUS // 2
