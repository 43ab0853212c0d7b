"""One pass over an input: read here, worked on in the workers, taken in order by a sink, noted in the journal every few seconds."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from .inputs import Input, Item, weight
from .journal import Begun, Journal, StagingDamaged
from .progress import Progress
from .sinks import Sink, State
from .tally import Result
from .workers import Workers

R = TypeVar("R", bound=Result)
S = TypeVar("S", bound=Sink)

_IN_FLIGHT = 1 << 28  # bytes of items that workers have, or that wait for them


class Pass(Generic[R, S]):
    """What is done in a pass.

    Args:
        name: for the journal and the user.
        make: the task of the workers.
        sink: made from its saved state, or from None.
        send: what a worker gets of an item; called when it is its turn.
    """

    def __init__(self, name: str, make: Callable[[], Callable[[Any], R]], sink: Callable[[State | None], S],
                 send: Callable[[S, Item], Any] = lambda sink, item: item) -> None:
        self.name = name
        self.make = make
        self.sink = sink
        self.send = send


class PassRunner:
    """Runs passes, each from where it was interrupted, or not at all where it was finished before.

    Args:
        journal: of the staging folder.
        workers: processes.
        progress: is told how far it is.
        seconds: between two entries of the journal.
    """

    def __init__(self, journal: Journal, *, workers: int, progress: Progress, seconds: float) -> None:
        self._journal = journal
        self._workers = workers
        self._progress = progress
        self._seconds = seconds

    def run(self, work: Pass[R, S], source: Input) -> State:
        """What the sink tells at the end.

        Raises:
            DataError: input that cannot be read, a dead worker, or what the sink raises.
            StagingDamaged: the staging folder is not what the journal says.
        """
        if self._journal.result(work.name) is None:
            result = self._run(work, source, self._journal.begun(work.name) or Begun(None, 0, None))
            self._journal.finish(work.name, result)
        return self._journal.result(work.name)

    def _run(self, work: Pass[R, S], source: Input, begun: Begun) -> State:
        self._progress.phase(work.name, source.total, begun.read)
        read, behind, saved = begun.read, deque[dict[str, Any]](), time.monotonic()

        def items() -> Iterator[tuple[Any, int]]:
            for item, place in source.items(begun.place):
                behind.append(place)
                yield work.send(sink, item), weight(item)

        with work.sink(begun.state) as sink, Workers[Any, R](self._workers, work.make) as workers:
            for result in workers.ordered(items(), most=_IN_FLIGHT):
                if result.damaged:
                    raise StagingDamaged("a frame of the store is damaged")
                sink.add(result)
                place = behind.popleft()
                read += result.read
                self._progress.advance(result.read, result.tally.documents, result.tally.text_bytes)
                if time.monotonic() - saved >= self._seconds:
                    self._journal.save(work.name, Begun(place, read, sink.state()))
                    saved = time.monotonic()
            return sink.finish()
