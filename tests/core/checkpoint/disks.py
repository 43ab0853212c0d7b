"""A disk of a given size that only a forked child sees: a tmpfs in its own mount namespace, gone with the child."""

import ctypes
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_REMOUNT = 1, 32


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def remount(disk: Path, *, size: int, read_only: bool = False) -> None:
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    _call("mount", b"none", os.fsencode(disk), b"tmpfs", ctypes.c_ulong(flags), f"size={size}".encode())


def on_own_disk(disk: Path, size: int, action: Callable[[], Any]) -> Any:
    """Run `action` in a child that has a tmpfs of `size` bytes at `disk`; its result must be plain JSON."""
    disk.mkdir()
    read_end, write_end = os.pipe()
    user, group = os.getuid(), os.getgid()
    pid = os.fork()
    if pid == 0:
        try:
            _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)  # needs no privileges
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
            _call("mount", b"none", os.fsencode(disk), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode())
            result = {"value": action()}
        except BaseException:
            result = {"trace": traceback.format_exc()}
        os.write(write_end, json.dumps(result).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    outcome = json.loads(content)
    assert "value" in outcome, outcome["trace"]
    return outcome["value"]
