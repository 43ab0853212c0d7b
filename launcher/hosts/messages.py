"""What the front end and a host tell each other: one JSON object a line, over the standard input and output of ssh.

    to a host     setup, go, signal, beat          from a host     ready, refused, out, end, done, beat

A line of ours begins with a mark, because a login shell may print there as well. Arguments and variables travel here, and so never through
a shell and never on a command line that `ps` would show.
"""

import json
from collections.abc import Iterator
from typing import Any

MARK = b"\x1ehexareme "  # RFC 7464's record separator: no shell greets with it
BEAT_SECONDS = 1.0
LONGEST = 1 << 24  # bytes of a line: beyond it nobody speaks our language

Message = dict[str, Any]


def line(message: Message) -> bytes:
    """One message as it travels; any string arrives as it was, lone surrogates (undecodable bytes of an argument) included."""
    return MARK + json.dumps(message).encode("ascii") + b"\n"


class Reader:
    """Takes bytes as they come; gives whole messages, and apart from them what else was printed."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: bytes) -> Iterator[Message | bytes]:
        """The messages, and lines that are none, which these bytes complete.

        Args:
            content: as read.
        """
        *whole, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > LONGEST:
            self._rest = b""
        for each in whole:
            before, mark, told = each.partition(MARK)  # a greeting may end without a new line
            if before or not mark:
                yield before
            if mark:
                found = _parsed(told)
                yield told if found is None else found


def _parsed(told: bytes) -> Message | None:
    try:
        found = json.loads(told)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
