"""Which numbers share a key, for more pairs than memory holds: partitions on disk by the key's high bits, each then sorted in memory.

A partition of more than `MOST_PAIRS` is split again by the next bits; one that has a single key (a million pages with one boilerplate)
is not sorted but read through. So the private memory stays below 0.7 GB, whatever the number of pairs (measured: 6 million pairs with few
keys 530 MB, with few repeats 200 MB); 100 million documents with 14 bands fill the partitions of the first split to that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

MOST_PAIRS = 6_000_000  # sorted at once
MOST_TOGETHER = 1 << 16  # members of one key that are handed out together; part of the result's definition, not of the memory's
_PAIR = np.dtype([("key", "<u8"), ("number", "<u8")])
_BITS = 8  # of the key by which a partition is split


@dataclass(frozen=True)
class Groups:
    """Members that share a key with an earlier one; by key, then by number.

    Args:
        first: uint64 (members,), the smallest number that has the member's key.
        member: uint64 (members,).
        group: int64 (members,), ascending; equal for members that belong together: one key, at most MOST_TOGETHER.
    """

    first: np.ndarray
    member: np.ndarray
    group: np.ndarray


class KeyPartitions:
    """Pairs (key, number) on disk.

    Args:
        folder: an empty folder, of which nothing is left after `groups`.
        used_bits: high bits of the key that all its pairs share.
        most: pairs sorted at once.
    """

    def __init__(self, folder: Path, *, used_bits: int = 0, most: int = MOST_PAIRS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._most = most
        self._used_bits = used_bits
        self._shift = np.uint64(64 - used_bits - _BITS)
        self._files: list[BinaryIO] = [self._path(part).open("wb") for part in range(2**_BITS)]

    def add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Takes pairs; numbers must ascend over all calls for equal keys.

        Args:
            keys: uint64 (pairs,).
            numbers: uint64 (pairs,).
        """
        parts = ((keys >> self._shift) & np.uint64(2**_BITS - 1)).astype(np.uint8)
        order = np.argsort(parts, kind="stable")
        pairs = np.empty(len(keys), _PAIR)
        pairs["key"], pairs["number"] = keys[order], numbers[order]
        ends = np.cumsum(np.bincount(parts, minlength=2**_BITS))
        for file, begin, end in zip(self._files, [0, *ends], ends, strict=False):
            if begin < end:
                file.write(pairs[begin:end].tobytes())

    def groups(self, progress: Callable[[float], None] = lambda done: None) -> Iterator[Groups]:
        """All members of keys that occur more than once; deletes the partitions on the way. Call once.

        Args:
            progress: told the part that is done, 0 .. 1.
        """
        for file in self._files:
            file.close()
        for part in range(2**_BITS):
            path = self._path(part)
            if path.stat().st_size <= self._most * _PAIR.itemsize:
                yield from _sorted_groups(np.fromfile(path, _PAIR))
            elif self._one_key(path):
                yield from self._read_through(path)
            else:
                yield from self._split(path)
            path.unlink()
            progress((part + 1) / 2**_BITS)
        self._folder.rmdir()

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:03d}.pairs"

    def _blocks(self, path: Path) -> Iterator[np.ndarray]:
        with path.open("rb") as file:
            while len(block := np.fromfile(file, _PAIR, MOST_TOGETHER)):
                yield block

    def _one_key(self, path: Path) -> bool:
        first = None
        for block in self._blocks(path):
            first = block["key"][0] if first is None else first
            if (block["key"] != first).any():
                return False
        return True

    def _split(self, path: Path) -> Iterator[Groups]:
        finer = KeyPartitions(path.with_suffix(""), used_bits=self._used_bits + _BITS, most=self._most)
        for block in self._blocks(path):
            finer.add(block["key"], block["number"])
        yield from finer.groups()

    def _read_through(self, path: Path) -> Iterator[Groups]:
        first = None
        for block in self._blocks(path):
            member = block["number"]
            if first is None:
                first, member = member[0], member[1:]
            yield Groups(np.full(len(member), first), member, np.zeros(len(member), np.int64))


def _sorted_groups(pairs: np.ndarray) -> Iterator[Groups]:
    """The groups of pairs that fit in memory."""
    order = np.argsort(pairs["key"], kind="stable")
    keys, numbers = pairs["key"][order], pairs["number"][order]
    repeats = np.zeros(len(keys), bool)
    repeats[1:] = keys[1:] == keys[:-1]
    if not repeats.any():
        return
    run = np.cumsum(~repeats) - 1
    starts = np.flatnonzero(~repeats)
    members = np.flatnonzero(repeats)
    begin = starts[run[members]]
    place = members - begin  # 1 is the run's second
    together = place // MOST_TOGETHER
    changed = np.ones(len(members), bool)
    changed[1:] = (begin[1:] != begin[:-1]) | (together[1:] != together[:-1])
    yield Groups(numbers[begin], numbers[members], np.cumsum(changed))
