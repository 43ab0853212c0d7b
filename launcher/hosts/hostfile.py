"""The hostfile: a line `host slots=n` for each host, or for a range of hosts. Strict, because a name becomes a word of ssh's command.

    # comment
    login-2       slots=8
    n[01-16,20]   slots=8     # n01, n02 ... n16, n20
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...conf.errors import ConfigError, Problem

KEY = "cluster.hostfile"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
LINE = re.compile(r"(?P<head>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|)(?:\[(?P<ranges>[0-9,-]{1,1000})\](?P<tail>[A-Za-z0-9._-]{0,252}))?"
                  r"[ \t]+slots=(?P<slots>[1-9][0-9]{0,3})")
RANGE = re.compile(r"(?P<low>[0-9]{1,9})(?:-(?P<high>[0-9]{1,9}))?")
MOST_SLOTS, MOST_HOSTS = 1024, 16384
MOST_BYTES = 1 << 20
MOST_TOLD, LONGEST_SHOWN = 5, 60
WAY_OUT = "write `host slots=n` or `n[01-16] slots=n`, one line each, as in docs/hosts.md"


@dataclass(frozen=True)
class Host:
    """One line's host.

    Args:
        name: as ssh takes it.
        slots: ranks that it has room for.
    """

    name: str
    slots: int


class _Refused(ValueError):
    """Why one line is none."""


def read_hostfile(path: Path) -> list[Host]:
    """The hosts of a file, in its order.

    Args:
        path: of the file; at most 1 MiB.

    Raises:
        ConfigError: it cannot be read, or any line is wrong; tells the first five with their line numbers.
    """
    try:
        return parse_hostfile(_content(path), path)
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}", "name a readable file of `host slots=n` lines") from error


def parse_hostfile(content: bytes, path: Path) -> list[Host]:
    """As `read_hostfile`, of what was read. Pure.

    Args:
        content: of the file.
        path: for the message.
    """
    if len(content) > MOST_BYTES:
        raise _error(path, f"is larger than {MOST_BYTES} bytes: no hostfile", WAY_OUT)
    hosts: dict[str, Host] = {}
    first_line: dict[str, int] = {}
    wrong: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            for host in _hosts_of(line):
                if host.name in hosts:
                    raise _Refused(f"{host.name} stands in line {first_line[host.name]} already")
                if len(hosts) >= MOST_HOSTS:
                    raise _Refused(f"more than {MOST_HOSTS} hosts")
                hosts[host.name], first_line[host.name] = host, number
        except _Refused as refused:
            wrong.append(f"line {number}: {_shown(line)}: {refused}")
    if wrong:
        more = f"; and {len(wrong) - MOST_TOLD} more lines" if len(wrong) > MOST_TOLD else ""
        raise _error(path, f"has {len(wrong)} wrong line{'s' * (len(wrong) > 1)}: {'; '.join(wrong[:MOST_TOLD])}{more}", WAY_OUT)
    if not hosts:
        raise _error(path, "names no host", WAY_OUT)
    return list(hosts.values())


def choose_hosts(hosts: list[Host], *, nodes: int, ranks_per_node: int, path: Path) -> list[Host]:
    """The hosts of a run: the first `nodes` of the file.

    Args:
        hosts: of the file.
        nodes, ranks_per_node: of the run.
        path: of the file, for the message.

    Raises:
        ConfigError: there are fewer, or one of them has not as many slots.
    """
    if len(hosts) < nodes:
        raise ConfigError([Problem("cluster.nodes", nodes, f"is more than the {len(hosts)} hosts of {path}",
                                   f"set cluster.nodes={len(hosts)}, or add hosts")])
    small = [host for host in hosts[:nodes] if host.slots < ranks_per_node]
    if small:
        named = ", ".join(f"{host.name} ({host.slots})" for host in small[:MOST_TOLD]) + (" ..." if len(small) > MOST_TOLD else "")
        raise ConfigError([Problem("cluster.ranks_per_node", ranks_per_node, f"is more than the slots of {named} in {path}",
                                   f"set cluster.ranks_per_node={min(host.slots for host in small)}, or correct the slots")])
    return hosts[:nodes]


def _hosts_of(line: bytes) -> Iterator[Host]:
    """The hosts of one line; none of a blank one or a comment."""
    body = line.partition(b"#")[0].strip(b" \t")
    if not body:
        return
    if not body.isascii():
        raise _Refused("has characters beyond ASCII")
    match = LINE.fullmatch(body.decode("ascii"))
    if match is None or not (match["head"] or match["ranges"]):
        raise _Refused("is not `host slots=n`")
    slots = int(match["slots"])
    if slots > MOST_SLOTS:
        raise _Refused(f"slots={slots} is more than {MOST_SLOTS}")
    for number in _numbers(match["ranges"]):
        name = f"{match['head']}{number}{match['tail'] or ''}"
        if not re.fullmatch(NAME, name):
            raise _Refused("is longer than a host's name can be")
        yield Host(name, slots)


def _numbers(ranges: str | None) -> Iterator[str]:
    """`01-03,7` -> 01, 02, 03, 7; one empty word where a line has no range."""
    if ranges is None:
        yield ""
        return
    for part in ranges.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise _Refused(f"[{ranges[:20]}] is no range")
        low, high = match["low"], match["high"] or match["low"]
        if int(high) < int(low) or len(high) < len(low):
            raise _Refused(f"{part} runs backwards")
        if int(high) - int(low) >= MOST_HOSTS:
            raise _Refused(f"{part} is more than {MOST_HOSTS} hosts")
        yield from (f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1))


def _content(path: Path) -> bytes:
    """The file's beginning; never waits for a pipe, never reads a device without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _error(path, "is no regular file", "name a file of `host slots=n` lines")
        return stream.read(MOST_BYTES + 1)


def _shown(line: bytes) -> str:
    """A line that anybody may have written, short and printable."""
    words = ascii(line[:LONGEST_SHOWN].decode("utf-8", errors="replace"))
    return words[:LONGEST_SHOWN] + (" ..." if len(words) > LONGEST_SHOWN or len(line) > LONGEST_SHOWN else "")


def _error(path: Path, message: str, do: str) -> ConfigError:
    return ConfigError([Problem(KEY, path, message, do)])
