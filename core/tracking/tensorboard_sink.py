"""TensorBoard event files in `<run>/tensorboard`. Needs the package tensorboard, not torch."""

import time
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from .sink import Logged

FLUSH_SECONDS = 5


class TensorboardSink:
    """Writes one scalar for each value of a row: `training/<key>` and `validation/<key>`.

    Args:
        folder: where the event files lie; those of earlier sessions tell which steps are written already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: EventFileWriter | None = None

    def open(self, *, seconds_left: float | None) -> Logged:
        """Read what earlier sessions wrote and begin a new event file."""
        logged = Logged()
        for path in sorted(self._folder.glob("events.out.tfevents.*")):
            for event in LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    key = value.tag.partition("/")[2]
                    if key in ("loss", "validation_loss"):
                        logged.note({"step": event.step, key: 0.0})
        self._writer = EventFileWriter(str(self._folder), flush_secs=FLUSH_SECONDS)
        return logged

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one row."""
        assert self._writer is not None
        group = "training" if "loss" in values else "validation"
        summary = Summary(value=[Summary.Value(tag=f"{group}/{key}", simple_value=value) for key, value in values.items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self, *, exit_code: int) -> None:
        """Flush to the disk; event files know no `exit_code`."""
        if self._writer is not None:
            self._writer.close()
