"""What the watchers tell each other about ranks that make no progress: one small file each, in the run folder."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...core.pulse import Phase
from ...core.waiting import Wait
from .stacks import Standing

FOLDER = "hang"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One watcher's look at its rank.

    Args:
        attempt: which start of the run it is about; files of others are passed over.
        episode: counts the times that somebody raised an alarm; those of one episode are judged together.
        rank, host, process: whose.
        phase, step, ticks: as `core.pulse.Beat`.
        idle_seconds: since its last sign of progress, by its watcher's own clock.
        late: whether that is longer than `run.hang_timeout`.
        state: Linux's letter for the process.
        beat_seconds: since the last beat of the rank's own thread.
        answered: whether it gave its stacks.
        standing: what they say.
    """

    attempt: str
    episode: int
    rank: int
    host: str
    process: int
    phase: Phase
    step: int
    ticks: int
    idle_seconds: float
    late: bool
    state: str
    beat_seconds: float
    answered: bool
    standing: Standing

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger holds it."""
        return self.state in "tT"

    @property
    def waiting(self) -> bool:
        """Whether it waits for other ranks, or for its device, which may in turn wait for them."""
        return not self.stopped and self.standing.wait in (Wait.collective, Wait.device)


class Findings:
    """The findings of one attempt.

    Args:
        directory: of the run.
        attempt: its name.
    """

    def __init__(self, directory: Path, attempt: str) -> None:
        self._folder = directory / FOLDER
        self._attempt = attempt

    def clear(self, rank: int, *, all_ranks: bool) -> None:
        """Before a start: forgets what is left of an earlier one.

        Args:
            rank: whose.
            all_ranks: everybody's.
        """
        with suppress(OSError):
            for path in list(self._folder.iterdir()) if all_ranks else [self._path(rank)]:
                path.unlink(missing_ok=True)

    def publish(self, finding: Finding) -> None:
        """Whole or not at all; where the disk refuses, the others take this rank for silent, and its own watcher still judges."""
        aside = self._folder / f".{self._path(finding.rank).name}.{os.getpid()}"
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            aside.write_text(json.dumps(asdict(finding)) + "\n")
            aside.replace(self._path(finding.rank))

    def read(self) -> dict[int, Finding]:
        """Rank -> its newest finding. Listing opens the folder, so that a network disk asks its server."""
        try:
            paths = [path for path in self._folder.iterdir() if path.name.startswith("rank-")]
        except OSError:
            return {}
        found = [finding for finding in map(_read, paths) if finding is not None and finding.attempt == self._attempt]
        return {finding.rank: finding for finding in found}

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank:05d}.json"


def _read(path: Path) -> Finding | None:
    """None for what is no finding."""
    try:
        fields = json.loads(path.read_text())
        standing = fields["standing"]
        place = {"wait": Wait(standing["wait"]), "lines": tuple((name, line) for name, line in standing["lines"]),
                 "frames": tuple(standing["frames"])}
        return replace(Finding(**fields), phase=Phase(fields["phase"]), standing=Standing(**standing | place))
    except (OSError, ValueError, TypeError, KeyError):
        return None
