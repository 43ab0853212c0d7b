"""One host, as the front end sees it: its ssh process, what it says, and how long ago."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..processes import exit_code
from ..watch.vigil import watched_signals
from .messages import Message, Reader, line

CHUNK = 1 << 16
MOST_WAITING = 1 << 24  # bytes for a host that does not read
LAST_WORDS = 300  # characters


class HostLog:
    """`logs/host-<name>.log`: what a host printed beside its ranks' own logs. Kept in memory until the folder is this attempt's.

    Args:
        path: of the file.
        ours: whether the run folder is.
    """

    def __init__(self, path: Path, ours: Callable[[], bool]) -> None:
        self._path, self._ours = path, ours
        self._waiting = b""
        self.last = ""

    def add(self, content: bytes) -> None:
        """One line without its end."""
        self.last = content.decode(errors="replace").strip()[:LAST_WORDS] or self.last
        self._waiting = self._waiting[-CHUNK:] + content + b"\n"
        if self._ours():
            with suppress(OSError), self._path.open("ab") as stream:  # a full disk ends the run elsewhere
                stream.write(self._waiting)
                self._waiting = b""


class Link:
    """The connection to one host. Never waits.

    Args:
        name: of the host.
        ranks: that run there.
        arguments: the command line of ssh.
        log: of the host.
    """

    def __init__(self, name: str, ranks: range, arguments: list[str], log: HostLog) -> None:
        self.name, self.ranks, self.log = name, ranks, log
        self.ready: Message | None = None
        self.done = False
        self.dismissed = False  # by us
        self.status: int | None = None  # exit code of ssh
        self.heard = time.monotonic()
        self._out, self._err = Reader(), b""
        self._unsent = b""
        self.process, self._stdin, self.stdout, self.stderr = _spawn(arguments)

    @property
    def open_streams(self) -> list[int]:
        """Descriptors to wait for."""
        return [stream for stream in (self.stdout, self.stderr) if stream >= 0]

    def tell(self, message: Message) -> None:
        """Sends a message, as soon as the host takes it."""
        if len(self._unsent) < MOST_WAITING:
            self._unsent += line(message)
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as it goes."""
        if self._stdin < 0:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent):]
        except BlockingIOError:
            return
        except OSError:  # ssh has ended: `ended` will say so
            self._unsent = b""

    def hear(self) -> Iterator[Message]:
        """What has come since the last call; prints what is meant for the user."""
        for content in self._read("stdout"):
            self.heard = time.monotonic()
            for each in self._out.feed(content):
                if isinstance(each, bytes):
                    self._print(each)
                elif "out" in each:
                    sys.stdout.buffer.write(each["out"].encode(errors="surrogateescape"))
                    sys.stdout.flush()
                else:
                    yield each
        for content in self._read("stderr"):
            *whole, self._err = (self._err + content).split(b"\n")
            for each in whole:
                self._print(each)

    def _read(self, stream: str) -> Iterator[bytes]:
        descriptor = getattr(self, stream)
        while descriptor >= 0:
            try:
                content = os.read(descriptor, CHUNK)
            except BlockingIOError:
                return
            if not content:
                os.close(descriptor)
                setattr(self, stream, -1)
                return
            yield content

    def _print(self, content: bytes) -> None:
        """An error line as it is, because scripts look for it; any other with the host's name."""
        self.log.add(content)
        if content.strip():
            head = b"" if content.startswith((b"ERROR ", b"WARNING")) else f"{self.name}: ".encode()
            sys.stderr.buffer.write(head + content + b"\n")
            sys.stderr.flush()

    def ended(self) -> bool:
        """Whether ssh has ended, and all that it brought was read."""
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.status = exit_code(status)
        return self.status is not None

    def hang_up(self) -> None:
        """The host's front end ends itself and its ranks, as soon as it notices."""
        self.dismissed = True
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def close(self) -> None:
        """Ends ssh, whatever it does."""
        self.hang_up()
        if not self.ended():
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            self.status = exit_code(os.waitpid(self.process, 0)[1])
        for stream in self.open_streams:
            os.close(stream)
        self.stdout = self.stderr = -1


def _spawn(arguments: list[str]) -> tuple[int, int, int, int]:
    """Starts ssh in a session of its own, so that Ctrl-C in this terminal is passed on by us alone; its id and our ends of its streams."""
    pipes = [os.pipe() for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(theirs)]
    asked = watched_signals()
    process = os.posix_spawnp(arguments[0], arguments, os.environ, file_actions=actions, setsid=True, setsigmask=[],
                              setsigdef=[number for number in asked if number != signal.SIGCHLD])
    for descriptor in theirs:
        os.close(descriptor)
    ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
    for descriptor in ours:
        os.set_blocking(descriptor, False)
    return process, ours[0], ours[1], ours[2]
