"""What the control group of a process says about its memory: how a death by SIGKILL becomes "out of memory"."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 where there is no limit
GIB = 1 << 30


@dataclass(frozen=True)
class GroupMemory:
    """One look at a control group.

    Args:
        peak: most bytes in use so far.
        limit: bytes; None without a limit.
        kills: processes that were killed because of the limit, as far as the kernel counts them.
    """

    peak: int
    limit: int | None
    kills: int


class MemoryWatch:
    """The memory of this process's control group, from now on."""

    def __init__(self) -> None:
        self._before = group_memory()

    def words(self) -> str:
        """What a death by SIGKILL means now: with numbers where there is a limit, without doubt where the kernel has counted a kill."""
        before, now = self._before, group_memory()
        if now is None or now.limit is None:
            return "probably out of memory"
        sure = before is not None and now.kills > before.kills
        return (f"{'' if sure else 'probably '}out of memory (its control group has used up to {now.peak / GIB:.2f} GiB "
                f"of {now.limit / GIB:.2f} GiB)")


def group_memory(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> GroupMemory | None:
    """Of the nearest group above this process that has a limit, else of its own; None where nothing can be read.

    Args:
        root: where the control groups are mounted.
        membership: which groups this process is in.
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):  # version 2 has one line without a name
                continue
            read = _read_1 if controllers else _read_2
            looks = [look for folder in _upward(root / controllers, path) if (look := read(folder)) is not None]
            if looks:
                return next((look for look in looks if look.limit is not None), looks[0])
    return None


def _upward(top: Path, path: str) -> list[Path]:
    """The group's folder and those above; inside a container the path may lead nowhere, and then `top` is the group."""
    below = [part for part in path.split("/") if part not in ("", "..")]
    return [top.joinpath(*below[:length]) for length in range(len(below), -1, -1)]


def _read_2(folder: Path) -> GroupMemory | None:
    """Version 2."""
    with suppress(OSError, ValueError):
        limit = (folder / "memory.max").read_text().strip()
        peak = folder / "memory.peak"  # since Linux 5.19
        used = int((peak if peak.exists() else folder / "memory.current").read_text())
        return GroupMemory(used, None if limit == "max" else int(limit), _counted(folder / "memory.events"))
    return None


def _read_1(folder: Path) -> GroupMemory | None:
    """Version 1."""
    with suppress(OSError, ValueError):
        limit = int((folder / "memory.limit_in_bytes").read_text())
        used = int((folder / "memory.max_usage_in_bytes").read_text())
        return GroupMemory(used, None if limit >= UNLIMITED else limit, _counted(folder / "memory.oom_control"))
    return None


def _counted(path: Path) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
