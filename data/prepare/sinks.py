"""What the parent does with the results of a pass, in their order: write them, and say at any time how far what is written stands safe.

Each sink is made from the state that an earlier one gave, and then goes on there.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from ..clean.report import CleanReport
from ..errors import DataError
from ..tokens.appended_file import AppendedFile
from ..tokens.raw_origins import RawOriginWriter
from ..tokens.writer import TokenFileWriter, WriterPosition
from .encode import Cleaned, Encoded, ReportShape, Sampled
from .journal import StagingDamaged
from .store import add_frame
from .tally import Result, Tally
from .text_sample import Sample

R = TypeVar("R", bound=Result)

State = dict[str, Any]


class Sink(Generic[R]):
    """Counts results and lists rejects; those below do more. A context manager.

    Args:
        rejects: the list of bad records; None: the input is our own, and has none.
        state: what `state` gave, None at the beginning.
        check: is asked after each result whether it may go on.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[["Sink[Any]"], None]) -> None:
        self.tally = Tally(**state["tally"]) if state else Tally()
        self._check = check
        self._stack = ExitStack()
        self._rejects = self._appended(rejects, state["rejects"] if state else 0) if rejects else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, result: R) -> None:
        """Takes the next result."""
        self.tally.add(result.tally)
        if self._rejects:
            for reject in result.rejects:
                self._rejects.write((json.dumps(asdict(reject)) + "\n").encode())
        self._check(self)

    def state(self) -> State:
        """How far it is, all of it safe on the disk; plain values."""
        return {"tally": asdict(self.tally), "rejects": self._rejects.sync() if self._rejects else 0}

    def finish(self) -> State:
        """The pass is done; plain values that tell its result."""
        return self.state()

    def _appended(self, path: Path, size: int) -> AppendedFile:
        try:
            return self._stack.enter_context(AppendedFile(path, size))
        except DataError as error:
            raise StagingDamaged(str(error)) from error


class CleanSink(Sink[Cleaned]):
    """Writes the store, the signatures and the report.

    Args:
        folder: the staging folder.
        report: its shape.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[["Sink[Any]"], None], *, folder: Path,
                 report: ReportShape) -> None:
        super().__init__(rejects, state, check)
        self._report = CleanReport.restore(state["report"]) if state else report.blank()
        self._store = self._appended(folder / "store", state["store"] if state else 0)
        self._signatures = self._appended(folder / "signatures", state["signatures"] if state else 0)

    def add(self, result: Cleaned) -> None:
        super().add(result)
        if result.frame.documents:
            add_frame(self._store, result.frame)
            self._signatures.write(result.signatures)
        assert result.report
        self._report.merge(result.report)

    def state(self) -> State:
        files = {"store": self._store.sync(), "signatures": self._signatures.sync()}
        return {**super().state(), **files, "report": self._report.state()}


class SampleSink(Sink[Sampled]):
    """Keeps the sample in memory, and what came into it in a file, from which it is made again.

    Args:
        log: that file.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[["Sink[Any]"], None], *, log: Path) -> None:
        super().__init__(rejects, state, check)
        self.sample = read_sample(log, state["sample"]) if state else Sample()
        self._log = self._appended(log, state["sample"] if state else 0)

    def add(self, result: Sampled) -> None:
        super().add(result)
        taken = [(value, text) for value, text in result.texts if value <= self.sample.most]
        self.sample.add(taken)
        for value, text in taken:
            self._log.write((json.dumps([value, text]) + "\n").encode())

    def state(self) -> State:
        return {**super().state(), "sample": self._log.sync()}


def read_sample(log: Path, size: int) -> Sample:
    """The sample that a `SampleSink` had when its log was so long.

    Raises:
        StagingDamaged: the log is not what was written.
    """
    sample = Sample()
    try:
        with log.open("rb") as lines:
            while size > 0:
                line = lines.readline()
                size -= len(line)
                value, text = json.loads(line)
                sample.add([(value, text)])
    except (OSError, ValueError, TypeError) as error:
        raise StagingDamaged(f"{log.name} is damaged") from error
    return sample


class EncodeSink(Sink[Encoded]):
    """Writes the token files, and where their documents came from.

    Args:
        folder: the staging folder.
        names: of the parts.
        dtype: of the ids.
        report: of the cleaning; None: nothing was cleaned.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[["Sink[Any]"], None], *, folder: Path,
                 names: Sequence[str], dtype: np.dtype, report: ReportShape | None) -> None:
        super().__init__(rejects, state, check)
        self._removed = report and (CleanReport.restore(state["removed"]) if state else report.blank())
        self._writers: dict[str, TokenFileWriter] = {}
        try:
            for name in names:
                start = WriterPosition(**state["parts"][name]) if state else None
                self._writers[name] = self._stack.enter_context(TokenFileWriter(folder / name, dtype, start=start, keep=True))
            self._origins = self._stack.enter_context(RawOriginWriter(folder, names, state and state["origins"]))
        except DataError as error:
            self._stack.close()
            if state:
                raise StagingDamaged(str(error)) from error
            raise

    def add(self, result: Encoded) -> None:
        super().add(result)
        for name, writer in self._writers.items():
            writer.add_documents(result.parts[name].ids, result.parts[name].lengths)
        self._origins.add(result.files, result.origins)
        if self._removed:
            assert result.removed
            self._removed.merge(result.removed)

    def state(self) -> State:
        parts = {name: asdict(writer.position()) for name, writer in self._writers.items()}
        removed = self._removed.state() if self._removed else None
        return {**super().state(), "parts": parts, "origins": self._origins.state(), "removed": removed}

    def finish(self) -> State:
        state = self.state()
        sources, arrays = self._origins.finish()
        parts = {name: asdict(replace(writer.finish(), arrays=arrays[name])) for name, writer in self._writers.items()}
        return {**state, "parts": parts, "sources": asdict(sources)}

