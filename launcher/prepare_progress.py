"""How far `prepare` is: a bar on a terminal, a line now and then elsewhere; always on standard error."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 10.0  # between two lines where nobody watches


class Meter:
    """Counts one pass.

    Args:
        name: of the pass.
        total: bytes of the input files; 0 where they say nothing about the time.
        clock: seconds, monotonic.
        begun: bytes that an earlier process has done.
    """

    def __init__(self, name: str, total: int, clock: Callable[[], float] = time.monotonic, *, begun: int = 0) -> None:
        self.name = name
        self.total = total
        self.done = self._begun = begun
        self.documents = self.text_bytes = 0
        self._clock = clock
        self._start = clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """MB (10^6 bytes) of text a second."""
        return self.text_bytes / 1e6 / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At the pace so far, by bytes of the input files; they may be compressed, so text says nothing about the end."""
        return self.seconds * (self.total - self.done) / max(self.done - self._begun, 1)

    def add(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        self.done += input_bytes
        self.documents += documents
        self.text_bytes += text_bytes

    def line(self) -> str:
        """As in `prepare: tokenizing 42 %, 12,345 documents, 8.1 MB/s, 63 s left`."""
        if not self.total:
            return f"prepare: {self.name}"
        part = 100 * self.done // self.total
        return ", ".join([f"prepare: {self.name} {part} %", *self.facts(), f"{self.seconds_left:.0f} s left"])

    def facts(self) -> list[str]:
        """Documents and pace; nothing where no text is read, as in the search for duplicates."""
        return [f"{self.documents:,} documents", f"{self.rate:.1f} MB/s"] if self.text_bytes else []


class PrepareProgress:
    """Shows the passes of `prepare`; use it as a context manager.

    Args:
        console: on standard error.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._meter = Meter("starting", 0)
        self._spoken = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console)

    @property
    def meter(self) -> Meter:
        """Of the latest pass."""
        return self._meter

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def phase(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
        """The next pass begins, or goes on behind what was done before."""
        self._meter = Meter(name, total_bytes, begun=done_bytes)
        if self._bar:
            for task in self._bar.tasks:
                self._bar.update(task.id, total=task.total or 1, completed=task.total or 1)
            self._task = self._bar.add_task(name, total=total_bytes or None, completed=done_bytes, rate="")
        else:
            self._say(f"prepare: {name}")

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        """So much more is done."""
        meter = self._meter
        meter.add(input_bytes, documents, text_bytes)
        if self._bar:
            self._bar.update(self._task, advance=input_bytes, rate="  ".join(meter.facts()))
        elif time.monotonic() - self._spoken >= QUIET_SECONDS:
            self._say(meter.line())

    def note(self, line: str) -> None:
        """Something that the user should know."""
        self._say(f"prepare: {line}")

    def _say(self, line: str) -> None:
        self._spoken = time.monotonic()
        self._console.print(line, highlight=False, soft_wrap=True)
