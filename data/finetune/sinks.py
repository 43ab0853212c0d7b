"""What the parent does with the results of each pass over fine-tuning records, see `prepare/sinks.py`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..prepare.journal import StagingDamaged
from ..prepare.refusal import Unusable
from ..prepare.sinks import Sink, State
from ..tokens.arrays import ArrayWriter, array_path
from ..tokens.description import ArrayDescription, PartDescription
from ..tokens.raw_origins import ORIGINS, RawOriginWriter, copy_names
from .examples import TOO_LONG
from .held_out import class_thresholds
from .records import ClassKey
from .settings import TaskRecipe
from .windows import Packed, Window
from .work import Classes, Fates, Made
from .writers import PartWriter

_TEXT = np.dtype([("hash", "<u8"), ("class", "<i4")])
_COPIED = 1 << 20  # bytes of class numbers at a time


class _Numbering:
    """The numbers of classes, in the order in which they come.

    Args:
        state: what `state` gave; None at the beginning.
    """

    def __init__(self, state: list[list[Any]] | None) -> None:
        self._numbers: dict[ClassKey, int] = {(kind, label): number for number, (kind, label) in enumerate(state or [])}

    def of(self, keys: Sequence[ClassKey]) -> np.ndarray:
        """int32 (keys,)."""
        return np.array([self._numbers.setdefault(key, len(self._numbers)) for key in keys], "<i4")

    @property
    def listed(self) -> list[ClassKey]:
        """All, by number."""
        return list(self._numbers)

    def state(self) -> list[list[Any]]:
        """Plain values."""
        return [list(key) for key in self._numbers]


class ClassSink(Sink[Classes]):
    """Keeps hash and class of each text in a file, 12 bytes each, and gives the thresholds at the end.

    Args:
        log: that file.
        fraction: part of each class to hold out.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[[Sink[Any]], None], *, log: Path,
                 fraction: float) -> None:
        super().__init__(rejects, state, check)
        self._path = log
        self._fraction = fraction
        self._classes = _Numbering(state["classes"] if state else None)
        self._log = self._appended(log, state["log"] if state else 0)

    def add(self, result: Classes) -> None:
        super().add(result)
        found = np.empty(len(result.texts), _TEXT)
        found["hash"] = [value for value, _ in result.texts]
        found["class"] = self._classes.of([key for _, key in result.texts])
        self._log.write(found.tobytes())

    def state(self) -> State:
        return {**super().state(), "log": self._log.sync(), "classes": self._classes.state()}

    def finish(self) -> State:
        """Also `thresholds`: (type, label, threshold) of each class."""
        state = self.state()
        texts = np.fromfile(self._path, _TEXT)
        thresholds = class_thresholds(texts["hash"], texts["class"], self._fraction)
        return {**state, "thresholds": [[*key, limit] for key, limit in zip(self._classes.listed, thresholds, strict=True)]}


class ExampleSink(Sink[Made]):
    """Writes the examples in the order of the input.

    Args:
        folder: where to; exists.
        names: of the parts.
        dtype: of the ids.
        recipe: the task.
    """

    def __init__(self, rejects: Path | None, state: State | None, check: Callable[[Sink[Any]], None], *, folder: Path,
                 names: Sequence[str], dtype: np.dtype, recipe: TaskRecipe) -> None:
        super().__init__(rejects, state, check)
        self._folder = folder
        self._recipe = recipe
        self._fates: Fates = dict(state["fates"]) if state else {}
        self._classes = _Numbering(state["classes"] if state else None)
        classified = recipe.kind == "classification"
        with _damage(self, state):
            # The set of classes is known at the end: until then, what is written are numbers in the order of their coming.
            self._numbers = {name: self._appended(folder / f"{name}.classes", state["numbers"][name] if state else 0)
                             for name in names if classified}
            arrays = {} if classified else {"mask": "uint8"}
            self._writers = {name: self._stack.enter_context(PartWriter(folder, name, dtype, arrays, start=_start(state, name)))
                             for name in names}
            self._origins = self._stack.enter_context(RawOriginWriter(folder, names, state and state["origins"]))

    def add(self, result: Made) -> None:
        super().add(result)
        self._refuse_too_long(result)
        for fate, count in result.fates.items():
            self._fates[fate] = self._fates.get(fate, 0) + count
        for name, writer in self._writers.items():
            part = result.parts[name]
            if name in self._numbers:
                self._numbers[name].write(self._classes.of(part.labels).tobytes())
                writer.add(part.ids, part.lengths, {})
            else:
                writer.add(part.ids, part.lengths, {"mask": part.mask})
        self._origins.add(result.files, result.origins)

    def state(self) -> State:
        parts = {name: writer.position() for name, writer in self._writers.items()}
        numbers = {name: file.sync() for name, file in self._numbers.items()}
        return {**super().state(), "fates": self._fates, "classes": self._classes.state(), "numbers": numbers, "parts": parts,
                "origins": self._origins.state()}

    def finish(self) -> State:
        """`parts` are descriptions now; also `sources`, and `labels`."""
        state = self.state()
        keys = sorted(self._classes.listed)
        sources, origins = self._origins.finish()
        parts = {name: self._finished(name, keys, origins[name]) for name in self._writers}
        return {**state, "parts": {name: asdict(part) for name, part in parts.items()}, "sources": asdict(sources),
                "labels": [label for _, label in keys]}

    def _finished(self, name: str, keys: Sequence[ClassKey], origins: Mapping[str, ArrayDescription]) -> PartDescription:
        part = self._writers[name].finish()
        arrays = {"labels": self._labels(name, keys)} if name in self._numbers else part.arrays
        return replace(part, arrays={**arrays, **origins})

    def _labels(self, name: str, keys: Sequence[ClassKey]) -> ArrayDescription:
        """A class id is a place in the sorted set."""
        places = {key: place for place, key in enumerate(keys)}
        table = np.array([places[key] for key in self._classes.listed], np.int32)
        path, written = array_path(self._folder, name, "labels"), self._folder / f"{name}.classes"
        with ArrayWriter(path, "int32") as labels, written.open("rb") as numbers:
            while data := numbers.read(_COPIED):
                labels.add(table[np.frombuffer(data, "<i4")])
            return labels.finish()

    def _refuse_too_long(self, result: Made) -> None:
        """With task.overlong=error the first one ends it."""
        if not (long := next((reject for reject in result.rejects if reject.cause == TOO_LONG), None)):
            return
        message = f"{long.file}:{long.line} makes an example longer than task.sequence_length={self._recipe.sequence_length}"
        way = "raise it, or set task.overlong=drop or one of cut_prompt_start, cut_prompt_end, cut_end"
        raise Unusable(message, do=way, file=long.file)


class PackSink(Sink[Packed]):
    """Writes examples in rows: those of a row are consecutive documents, and the array `rows` says with which each begins.

    Args:
        source: where the examples lie in the order of the input.
        folder: where to.
        names: of the parts.
        dtype: of the ids.
        sequence_length: inputs of a row.
    """

    def __init__(self, state: State | None, *, source: Path, folder: Path, names: Sequence[str], dtype: np.dtype,
                 sequence_length: int) -> None:
        super().__init__(None, state, lambda sink: None)
        self._source = source
        self._folder = folder
        self._dtype = dtype.newbyteorder("<")
        self._sequence_length = sequence_length
        nothing = {"examples": 0, "rows": 0, "inputs": 0}
        self._counts: dict[str, dict[str, int]] = state["counts"] if state else {name: dict(nothing) for name in names}
        with _damage(self, state):
            arrays = {"mask": "uint8", "rows": "int64", **dict.fromkeys(ORIGINS, "int64")}
            self._writers = {name: self._stack.enter_context(PartWriter(folder, name, dtype, arrays, start=_start(state, name)))
                             for name in names}

    def add(self, result: Packed) -> None:
        super().add(result)
        window = result.window
        counts = self._counts[window.part]
        ends = np.cumsum(window.lengths, dtype=np.int64)
        places = [slice(end - length, end) for end, length in zip(ends[result.order], window.lengths[result.order], strict=True)]
        ids, mask = (np.concatenate([values[place] for place in places]) for values in self._read(window, int(ends[-1])))
        rows = counts["examples"] + np.cumsum(result.sizes) - result.sizes
        origins = {name: values[result.order] for name, values in self._origins(window).items()}
        self._writers[window.part].add(ids, window.lengths[result.order], {"mask": mask, "rows": rows, **origins})
        counts["examples"] += len(result.order)
        counts["rows"] += len(rows)
        counts["inputs"] += len(ids) - len(result.order)

    def state(self) -> State:
        return {**super().state(), "counts": self._counts, "parts": {name: writer.position() for name, writer in self._writers.items()}}

    def finish(self) -> State:
        """`parts` are descriptions now; also `filled`: part of the inputs of all rows of each part that are tokens of examples."""
        state = self.state()
        copy_names(self._source, self._folder)
        for name, writer in self._writers.items():
            writer.add(np.empty(0, self._dtype), np.empty(0, np.int64), {"rows": np.array([self._counts[name]["examples"]])})
        filled = {name: each["inputs"] / max(1, each["rows"] * self._sequence_length) for name, each in self._counts.items()}
        return {**state, "parts": {name: asdict(writer.finish()) for name, writer in self._writers.items()}, "filled": filled}

    def _read(self, window: Window, tokens: int) -> Iterator[np.ndarray]:
        """Ids and mask of a window."""
        files = {self._source / f"{window.part}.bin": self._dtype, array_path(self._source, window.part, "mask"): np.dtype(np.uint8)}
        for path, dtype in files.items():
            yield np.fromfile(path, dtype, tokens, offset=window.token * dtype.itemsize)

    def _origins(self, window: Window) -> dict[str, np.ndarray]:
        """Of the examples of a window, in the order of the input."""
        return {name: np.fromfile(array_path(self._source, window.part, name), "<i8", len(window.lengths), offset=8 * window.example)
                for name in ORIGINS}


def _start(state: State | None, name: str) -> State | None:
    return state["parts"][name] if state else None


@contextmanager
def _damage(sink: Sink[Any], state: State | None) -> Iterator[None]:
    """Where a sink goes on, what its writers refuse was not written so; they are closed again."""
    try:
        yield
    except BaseException as error:
        sink.__exit__()
        if state and isinstance(error, DataError):
            raise StagingDamaged(str(error)) from error
        raise
