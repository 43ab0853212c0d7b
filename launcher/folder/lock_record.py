"""What a run folder's `.lock` says: one JSON object of fixed length, so that one write replaces it. Nothing in it is trusted."""

import errno
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..processes import start_ticks

FILE_NAME = ".lock"
LENGTH = 1024
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
LATEST = 1e11  # a Unix time that `localtime` still understands
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a run folder.

    Args:
        host: its name.
        boot: the kernel's identity of this boot.
        pid: of rank 0's watcher.
        started: when that process began, in clock ticks since boot; process ids are used again.
        token: of the attempt, new for each.
        attempt: what the front end told all ranks of the attempt.
        since: Unix time.
        port: where rank 0 listens; 0 until it does.
        ended: whether it has let go.
    """

    host: str
    boot: str
    pid: int
    started: int
    token: str
    attempt: str
    since: float
    port: int = 0
    ended: bool = False

    @classmethod
    def here(cls, *, attempt: str, token: str) -> "Holder":
        """This process, from now on."""
        return cls(host=os.uname().nodename, boot=boot_id(), pid=os.getpid(), started=start_ticks(os.getpid()), token=token,
                   attempt=attempt, since=time.time())

    def of_this_boot(self) -> bool:
        """Whether it was on this host, since it was booted: then its process can be looked at."""
        return (self.host, self.boot) == (os.uname().nodename, boot_id())

    def may_live(self) -> bool:
        """Whether it has not let go, and its process runs or cannot be looked at."""
        return not self.ended and (not self.of_this_boot() or start_ticks(self.pid) == self.started)

    def words(self) -> str:
        """For a message."""
        since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self.since))
        return f"process {self.pid} on host {self.host} since {since} (attempt {self.token})"


def boot_id() -> str:
    """The kernel's identity of this boot."""
    return BOOT_ID.read_text().strip()


def read_holder(path: Path) -> Holder | None:
    """What a lock says; None where it is damaged.

    Raises:
        FileNotFoundError: there is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return read_descriptor(descriptor)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int) -> Holder | None:
    """What an open lock says; None where it is damaged."""
    for _ in range(3):  # on some file systems a read may see half of a write
        found = parse(os.pread(descriptor, LENGTH + 1, 0))
        if found is not None:
            return found
        time.sleep(0.01)
    return None


def parse(content: bytes) -> Holder | None:
    """A record from bytes that anybody may have written."""
    if len(content) != LENGTH:
        return None
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return None
    kinds = {field.name: field.type for field in fields(Holder)}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        return None
    right = all(type(values[name]) is kind and (kind is not str or values[name].isprintable()) for name, kind in kinds.items())
    return Holder(**values) if right and 0 <= values["since"] < LATEST else None


def write_record(descriptor: int, holder: Holder) -> None:
    """Replaces the record, durably."""
    content = json.dumps(asdict(holder)).encode()
    os.pwrite(descriptor, content.ljust(LENGTH - 1) + b"\n", 0)
    os.fsync(descriptor)
