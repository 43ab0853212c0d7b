"""Batches ahead of time, from threads: reading and copying release the GIL, and nothing lives in other processes or in /dev/shm."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from ..tokens.description import unwatched
from .batch import Batch, join
from .dataset import Dataset

BULK = 64  # samples read at once: so many that what is done once for all of them is little, so few that they stay in the cache


class Loader:
    """The batches of one rank. `batch(step)` is a pure function of step; what was read ahead only makes it faster.

    Args:
        dataset: where samples come from.
        local_samples: the global sample numbers of this rank in a step, in the order of its micro-batches.
        workers: threads, each preparing whole steps; 0: everything happens inside `batch`.
        tick: a sign of progress after each read of the step that `batch` waits for; what is read ahead gives none.
    """

    def __init__(self, dataset: Dataset, *, local_samples: Callable[[int], Sequence[int]], workers: int,
                 tick: Callable[[], None] = unwatched) -> None:
        self._tick = tick
        self._wanted = -1
        self._dataset = dataset
        self._local_samples = local_samples
        self._ahead = 2 * workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="hexareme-loader") if workers else None
        self._pending: dict[int, Future[Batch]] = {}
        self.stalls = 0  # steps whose batch was not ready when it was asked for; the first one never is
        self._asked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def batch(self, step: int) -> Batch:
        """All samples of this rank in a step; the next steps are read meanwhile.

        Raises:
            DataError: whatever the dataset found wrong in this very step.
        """
        self._wanted = step
        if self._threads is None:
            return self._make(step)
        wanted = range(step, step + self._ahead + 1)
        for stale in [number for number in self._pending if number not in wanted]:
            self._pending.pop(stale).cancel()
        for number in wanted:
            if number not in self._pending:
                self._pending[number] = self._threads.submit(self._make, number)
        found = self._pending.pop(step)
        self.stalls += self._asked and not found.done()
        self._asked = True
        return found.result()

    def reorder(self, local_samples: Callable[[int], Sequence[int]]) -> None:
        """From now on other samples; what was read ahead is dropped.

        Args:
            local_samples: as in the constructor.
        """
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
        self._local_samples = local_samples

    def close(self) -> None:
        """Waits for the threads to end; afterwards `batch` cannot be called."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._pending.clear()

    def _make(self, step: int) -> Batch:
        indices = self._local_samples(step)
        parts = []

        def tick() -> None:
            if step == self._wanted:
                self._tick()

        for first in range(0, len(indices), BULK):
            parts.append(self._dataset.batch(indices[first : first + BULK], tick))
            tick()
        return join(parts)
