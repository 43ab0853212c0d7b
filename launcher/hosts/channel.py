"""The end of the connection that a host's front end holds."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

from .messages import Message, Reader, line

FIRST_SILENCE_SECONDS = 60.0  # until the front end has said how long it may be silent
CHUNK = 1 << 16


class Channel:
    """Takes over standard input and output, which ssh carries; what the ranks inherit in their place is empty, and standard error.

    Attributes:
        silence_seconds: after which a front end that says nothing is lost.
    """

    def __init__(self) -> None:
        self.silence_seconds = FIRST_SILENCE_SECONDS
        self._reader, self._writer = os.dup(0), os.dup(1)  # not inherited
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def tell(self, message: Message) -> None:
        """Sends one message. That nobody hears it any more is noticed by `messages`."""
        content = memoryview(line(message))
        with self._lock, suppress(OSError):
            while content:
                content = content[os.write(self._writer, content):]

    def messages(self) -> Iterator[Message]:
        """What the front end says, as long as it lives. When it has gone, or was silent for too long, this process is killed at once, and
        its ranks with it: a run without its front end could be started a second time beside it.
        """
        reader = Reader()
        while True:
            ready, _, _ = select.select([self._reader], [], [], self.silence_seconds)
            content = os.read(self._reader, CHUNK) if ready else b""
            if not content:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from (each for each in reader.feed(content) if isinstance(each, dict))
