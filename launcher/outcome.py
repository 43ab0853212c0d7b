"""How a rank or a run ended: the exit code, the one line on stderr, and `exit.json`."""

import errno
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..conf.errors import ConfigError
from ..core.errors import FolderInUseError, PeerError, StorageError

FILE_NAME = "exit.json"
CONFIG_CODE, SIGNAL_CODE = 2, 128
PEER_CODE, IN_USE_CODE = PeerError.exit_code, FolderInUseError.exit_code
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
RESERVED_BYTES = 16384  # an error line, and the attempts before
LONGEST = 1900  # bytes of the error line: what a log collector surely keeps in one piece


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one rank.

    Args:
        code: exit code (DESIGN.md 2.4).
        reason: one word: completed, stop_at, or the kind of failure.
        rank: which rank; None: that of the process that says so.
        step: the last one that the run recorded.
        what: what happened, with the values.
        do: the way out, one clause.
        file: the file it is about.
    """

    code: int
    reason: str
    rank: int | None = None
    step: int = 0
    what: str = ""
    do: str = ""
    file: str | None = None

    def line(self) -> str:
        """`ERROR <code> rank=<r> step=<s> <what> (do: <way out>)`, on one line whatever the message holds."""
        what, do = " ".join(self.what.split()), " ".join(self.do.split())
        room = LONGEST - len(do.encode()) - 60
        if len(what.encode()) > room:
            what = what.encode()[: max(room, 200)].decode(errors="ignore") + " ..."
        return f"ERROR {self.code} rank={self.rank} step={self.step} {what} (do: {do})"

    def at(self, *, rank: int, step: int) -> "Outcome":
        """The same outcome with its place filled in; a rank that it blames stays."""
        return replace(self, rank=rank if self.rank is None else self.rank, step=step)


def outcome_of(error: BaseException, *, log: Path | None = None) -> Outcome:
    """What an exception means for the exit code.

    Args:
        error: anything that ended a rank.
        log: where its traceback lies, for errors that are not made for the user.
    """
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        what = getattr(error, "what", None) or str(error) or type(error).__name__
        file = getattr(error, "file", None)
        return Outcome(code=code, reason=reason_of(error), what=str(what), do=str(getattr(error, "do", "")), file=file and str(file))
    if isinstance(error, KeyboardInterrupt):
        return Outcome(code=SIGNAL_CODE + signal.SIGINT, reason="interrupted", what="interrupted", do="start the same command to go on")
    if isinstance(error, SystemExit):
        return Outcome(code=error.code if isinstance(error.code, int) else 1, reason="exit", what=f"SystemExit: {error.code}",
                       do=f"read {log}" if log else "read the message above")
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        file = error.filename and str(error.filename)
        return Outcome(code=StorageError.exit_code, reason="storage", what=f"{error.strerror}: {file}" if file else str(error.strerror),
                       do="make room, or write to a healthy disk", file=file)
    way_out = f"read the traceback in {log}" if log else "read the traceback above"
    return Outcome(code=1, reason="error", what=f"{type(error).__name__}: {error}", do=way_out)


def complain(error: BaseException, *, rank: int, speak: bool = True) -> int:
    """The exit code of what could not start.

    Args:
        error: why not.
        rank: of this process.
        speak: False on all ranks but one where all of them find the same mistake.
    """
    outcome = outcome_of(error).at(rank=rank, step=0)
    if speak:
        if isinstance(error, ConfigError) and len(error.problems) > 1:
            sys.stderr.write("".join(f"  {problem}\n" for problem in error.problems))
        if outcome.code == 1:
            sys.excepthook(type(error), error, error.__traceback__)  # our own bug: its traceback is what helps
        sys.stderr.write(outcome.line() + "\n")
    return outcome.code


def reason_of(error: BaseException) -> str:
    """PeerError -> peer, FolderInUseError -> folder_in_use, Preempted -> preempted."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def outcome_of_status(status: int, *, memory: str = "probably out of memory") -> Outcome:
    """What the wait status of a rank means that could not speak for itself any more.

    Args:
        status: from `waitpid`.
        memory: what is known of the memory, should it be SIGKILL.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        cause = {signal.SIGKILL: f", {memory}", signal.SIGBUS: ", probably a full or failing disk under a mapped file"}
        do = {signal.SIGKILL: "lower batch.micro_size, set train.recompute=full, or see `dmesg`"}.get(
            signal.Signals(number), "start the same command to go on; the rank's log may say more")
        return Outcome(code=SIGNAL_CODE + number, reason="killed", do=do,
                       what=f"killed by signal {number} ({name}){cause.get(signal.Signals(number), '')}")
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code=code or 1, reason="error", what=f"ended with exit code {code} without a word", do="read the rank's log")


class ExitFile:
    """`exit.json` of a run: the first cause of its end wins, whichever rank writes it.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._before: bytes | None = None

    def clear(self, *, began: float) -> None:
        """A new start: the old end is kept in memory only.

        Args:
            began: Unix time at which this attempt began. A younger file is of this attempt: another rank may fail before rank 0 looks.
        """
        with suppress(FileNotFoundError):
            if self._path.stat().st_mtime < began:
                self._before = self._path.read_bytes()
                self._path.unlink()

    def reserve(self) -> None:
        """Room for the last word, taken while there is some: a full disk must not keep the run from saying that it is full."""
        with self._reserve.open("wb") as stream:
            stream.write(b" " * RESERVED_BYTES)
            stream.flush()
            os.fsync(stream.fileno())

    def release(self) -> None:
        """Gives that room back."""
        self._reserve.unlink(missing_ok=True)

    @property
    def _reserve(self) -> Path:
        return self._path.with_name(f".{FILE_NAME}.reserve")

    def restore(self) -> None:
        """The folder was not ours to use: puts the old end back."""
        if self._before is not None:
            self._publish(self._before)

    def read(self) -> dict[str, Any] | None:
        """What is written there; None where the run has not ended."""
        try:
            found = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, outcome: Outcome) -> bool:
        """Writes the outcome unless a first cause is there already.

        A failure replaces a success: rank 0 may have finished before another rank failed.

        Returns:
            Whether this outcome is now the first cause.
        """
        content = (json.dumps(asdict(outcome)) + "\n").encode()
        if self._publish(content):
            return True
        standing = self.read()
        if outcome.code != 0 and standing is not None and standing.get("code") == 0:
            aside = self._aside(content)
            aside.replace(self._path)
            return True
        return False

    def correct(self, outcome: Outcome) -> None:
        """Replaces what is written there; a disk that cannot take it costs only this."""
        with suppress(OSError):
            self._aside((json.dumps(asdict(outcome)) + "\n").encode()).replace(self._path)

    def tell_attempts(self, attempts: list[dict[str, Any]]) -> None:
        """Adds how earlier attempts ended; a disk that cannot take it costs only this.

        Args:
            attempts: {code, reason, rank, step} of each, the last one included.
        """
        with suppress(OSError):
            self._aside((json.dumps((self.read() or attempts[-1]) | {"attempts": attempts}) + "\n").encode()).replace(self._path)

    def _publish(self, content: bytes) -> bool:
        """Whole or not at all, and only if no file is there: link() fails where rename() would overwrite."""
        aside = self._aside(content)
        try:
            os.link(aside, self._path)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def _aside(self, content: bytes) -> Path:
        aside = self._path.with_name(f".{FILE_NAME}.{os.uname().nodename}.{os.getpid()}")
        try:
            _write(aside, content, "wb")
        except OSError:
            aside.unlink(missing_ok=True)
            os.rename(self._reserve, aside)  # for one rank, the first; the others find that it has spoken
            _write(aside, content, "r+b")
        return aside


def _write(path: Path, content: bytes, mode: Literal["wb", "r+b"]) -> None:
    """Into a new file, or into the blocks that a file has already."""
    with path.open(mode) as stream:
        stream.write(content)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


def last_step(directory: Path) -> int:
    """The newest step in `metrics.jsonl`, read from its end; 0 before the first."""
    try:
        with (directory / "metrics.jsonl").open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 65536))
            lines = stream.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                return int(entry["step"])
    return 0
