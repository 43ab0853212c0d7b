"""Seconds of a save, of its blocked part and of a load, beside those of the bare disk and memory for the same bytes."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
import xxhash

from ...parallel.partition import ShardSpec
from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.fragment import Fragment
from ..checkpoint.manifest import BLOCK_BYTES
from ..checkpoint.reader import Checkpoint
from ..checkpoint.verification import forget_cached
from .table import Limit, Row

LIMIT = Limit(tolerance=0.0, relative=True, digits=3)
DURABLE_RATE = 0.85  # of a save, as a part of write+fsync's
BLOCKED = 1.2  # times a memcpy
LOAD = 1.1  # times the longer of reading and hashing
LARGEST = 4 * 2**20  # elements of one tensor: an MLP matrix of a 1B model


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        state_bytes: of all ranks together.
        ranks: processes that save it.
        rounds: repetitions; medians count.
        folder: empty, on the disk under test.
    """

    state_bytes: int
    ranks: int
    rounds: int
    folder: Path


def measure_checkpoint(rank: int, setting: Setting) -> list[Row]:
    """Interleaved repetitions of everything; each time is that of the slowest rank. Collective.

    Args:
        rank: of this process; torch.distributed is started.
        setting: of the measurement.
    """
    with closing(Bench(rank, setting)) as bench:
        seconds: dict[str, list[float]] = {}
        for round_number in range(setting.rounds + 1):
            for name, action in bench.actions(step=round_number + 1):
                taken = timed(action)
                bench.settle()
                if round_number > 0:  # the first one makes pages, processes and folders
                    seconds.setdefault(name, []).append(taken)
    return rows({name: median(times) for name, times in seconds.items()}, setting.state_bytes)


def timed(action: Callable[[], None]) -> float:
    """Seconds of the slowest rank, all starting together."""
    dist.barrier()
    begin = time.perf_counter()
    action()
    taken = torch.tensor(time.perf_counter() - begin)
    dist.all_reduce(taken, op=dist.ReduceOp.MAX)
    return float(taken)


def rows(seconds: dict[str, float], state_bytes: int) -> list[Row]:
    """The bounds of the project, then the rates of everything in GB/s."""
    read_or_check = max(seconds["read"], seconds["hash"])
    bounds = [
        Row("save, durable", f"s, write+fsync / {DURABLE_RATE}", seconds["save"], seconds["write+fsync"] / DURABLE_RATE, bound=True),
        Row("asynchronous, blocked", f"s, {BLOCKED} memcpy", seconds["blocked"], seconds["memcpy"] * BLOCKED, bound=True),
        Row("load", f"s, {LOAD} max(read, hash)", seconds["load"], read_or_check * LOAD, bound=True),
    ]
    return bounds + [Row(name, "GB/s", state_bytes / taken / 1e9, None) for name, taken in seconds.items()]


class Bench:
    """One rank's state, and what is done with it.

    Args:
        rank: of this process.
        setting: of the measurement.
    """

    def __init__(self, rank: int, setting: Setting) -> None:
        self._rank, self._folder = rank, setting.folder
        self._bytes = setting.state_bytes // setting.ranks
        self._fragments = fragments(rank, self._bytes // 4)
        self._source = np.random.default_rng(rank).standard_normal(self._bytes // 4, dtype=np.float32)
        self._target = np.zeros(sum(each.tensor.numel() for each in self._fragments), dtype=np.float32)
        self._checkpointers = [
            Checkpointer(setting.folder / name, keep=1, rank=rank, world_size=setting.ranks, agree=agree, asynchronous=beside)
            for name, beside in (("now", False), ("beside", True))
        ]
        self._checkpointers[1].expect(own=self._bytes, total=setting.state_bytes)

    def actions(self, step: int) -> Iterator[tuple[str, Callable[[], None]]]:
        """What a round measures, each beside what it is compared with."""
        now, beside = self._checkpointers
        yield "write+fsync", self._write
        yield "save", lambda: self._save(now, step)
        yield "memcpy", self._copy
        yield "blocked", lambda: self._save(beside, step)
        yield "read", self._read
        yield "load", lambda: self._load(step)
        yield "hash", self._hash

    def settle(self) -> None:
        """What goes on beside the measurement ends before the next; what was read next lies on the disk only."""
        for checkpointer in self._checkpointers:
            checkpointer.finish()
        (self._folder / f"plain-{self._rank}").unlink(missing_ok=True)
        for path in (self._folder / "now").glob("step-*/*.safetensors"):
            forget_cached(path)
        dist.barrier()

    def close(self) -> None:
        """End the processes that write."""
        for checkpointer in self._checkpointers:
            checkpointer.close()

    def _save(self, checkpointer: Checkpointer, step: int) -> None:
        checkpointer.save(step=step, samples_seen=step, config={}, extra={}, fragments=self._fragments)

    def _load(self, step: int) -> None:
        Checkpoint.open(self._folder / "now" / f"step-{step:08d}").load(self._fragments)

    def _copy(self) -> None:
        """Of the state's own tensors: their pages are smaller than those of a numpy array, which alone makes a copy half as fast."""
        place = 0
        for fragment in self._fragments:
            count = fragment.tensor.numel()
            np.copyto(self._target[place : place + count], fragment.tensor.numpy())
            place += count

    def _write(self) -> None:
        content = self._source.view(np.uint8).data
        with open(self._folder / f"plain-{self._rank}", "wb", buffering=0) as file:
            for begin in range(0, len(content), BLOCK_BYTES):
                file.write(content[begin : begin + BLOCK_BYTES])
            os.fsync(file.fileno())

    def _read(self) -> None:
        room = memoryview(bytearray(BLOCK_BYTES))
        path = next(self._folder.glob(f"now/step-*/rank-{self._rank:05d}.safetensors"))
        with open(path, "rb", buffering=0) as file:
            count = 1
            while count:
                count = file.readinto(room)

    def _hash(self) -> None:
        content = self._source.view(np.uint8).data
        for begin in range(0, len(content), BLOCK_BYTES):
            xxhash.xxh3_128_hexdigest(content[begin : begin + BLOCK_BYTES])


def fragments(rank: int, elements: int) -> Sequence[Fragment]:
    """Masters and two moments of matrices with their biases, about as many elements as asked for."""
    found: list[Fragment] = []
    generator = torch.Generator().manual_seed(rank)
    left, number = elements, 0
    while left > 0:
        for shape in ((max(min(LARGEST, left // 3) // 1024, 1), 1024), (1024,)):
            for kind in ("parameter", "exp_avg", "exp_avg_sq"):
                values = torch.rand(shape, generator=generator).view(-1)
                found.append(Fragment(f"rank.{rank}.block.{number}.{len(shape)}", kind, ShardSpec.whole(shape), 0, values))
                left -= values.numel()
        number += 1
    return found


def agree(ok: bool) -> bool:
    """Whether all ranks say yes; collective."""
    flag = torch.tensor(int(ok))
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())
