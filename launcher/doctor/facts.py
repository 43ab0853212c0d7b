"""What is the case on this machine, as plain values that travel as JSON. Judges nothing, changes nothing, imports no torch."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..processes import parent_of, started_at
from ..watch.memory_limit import group_memory

PACKAGES = ("torch", "deepspeed", "numpy", "hydra-core", "safetensors", "sentencepiece", "tokenizers", "xxhash")
LIMITS = {"open_files": resource.RLIMIT_NOFILE, "locked_memory": resource.RLIMIT_MEMLOCK, "processes": resource.RLIMIT_NPROC}
RANK_PROGRAMS = ("launcher/train.py", "hexareme/launcher/", "bin/hexareme")
PACKAGE = Path(__file__).resolve().parents[2]
_GPU_FIELDS = ("index", "name", "memory.total", "memory.used", "ecc.errors.uncorrected.volatile.total", "temperature.gpu",
               "clocks_event_reasons.hw_slowdown", "driver_version")
_GPU_SECONDS = 15.0
_RESOLVE_SECONDS = 5.0


def gather(directory: Path, *, port: int) -> dict[str, Any]:
    """Everything that needs no measurement.

    Args:
        directory: of the run to come; need not exist.
        port: that its ranks would meet at; 0: any.
    """
    return {
        "host": socket.gethostname(), "clock": time.time(), "versions": versions(), "code": code_digest(),
        "cores": len(os.sched_getaffinity(0)), "memory": memory(), "shared_memory": room(Path("/dev/shm")),
        "limits": {name: resource.getrlimit(limit)[0] for name, limit in LIMITS.items()}, "addresses": addresses(),
        "disk": disk(directory), "home_writable": _writable(Path.home()), "temporary_writable": _writable(Path("/tmp")),
        "port": port, "port_free": port_is_free(port), "leftovers": list(leftovers()), "locks": list(build_locks()), "gpus": gpus(),
    }


def versions() -> dict[str, str]:
    """Of Python, the kernel and the packages that ranks share; "" for one that is not there."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "interpreter": sys.executable}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def code_digest() -> str:
    """Equal on two machines that run the same Hexareme: a hash over its Python and YAML files."""
    digest = sha256()
    for layer in ("conf", "core", "data", "launcher", "parallel"):
        for path in sorted(path for path in (PACKAGE / layer).rglob("*") if path.suffix in (".py", ".yaml")):
            digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def memory() -> dict[str, int]:
    """Bytes: of the machine, free for programs, and the limit of this process's control group (0: none)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    group = group_memory()
    return {"total": int(fields["MemTotal"].split()[0]) * 1024, "available": int(fields["MemAvailable"].split()[0]) * 1024,
            "limit": group.limit or 0 if group is not None else 0}


def room(folder: Path) -> dict[str, int]:
    """Bytes of a file system, in all and free; zeros where there is none."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return {"total": 0, "free": 0}
    return {"total": usage.total, "free": usage.free}


def disk(directory: Path) -> dict[str, Any]:
    """The file system of a folder that may still have to be made."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return {"directory": str(directory), "exists": str(place), "writable": _writable(place), "kind": _kind(place), **room(place)}


def addresses() -> list[str]:
    """What this machine's own name resolves to, in the system's order; empty where it does not within 5 s."""
    program = "import socket; print(*dict.fromkeys(a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None)))"
    command = [sys.executable, "-c", program]
    with suppress(OSError, subprocess.SubprocessError):  # a resolver may wait for half a minute, and cannot be told not to
        return subprocess.run(command, capture_output=True, text=True, timeout=_RESOLVE_SECONDS, check=True).stdout.split()
    return []


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine; True for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def leftovers() -> Iterator[dict[str, Any]]:
    """Processes of this user that belong to runs, but not to whoever asks: their id, age in seconds, and their command."""
    own, process = set(), os.getpid()
    while process > 1:
        own.add(process)
        process = parent_of(process)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            program = next((word for word in words[:2] if any(known in word for known in RANK_PROGRAMS)), "")  # or the interpreter's
            if program and "doctor" not in words and entry.stat().st_uid == os.getuid():
                yield {"process": int(entry.name), "seconds": round(max(0.0, time.time() - started_at(int(entry.name)))),
                       "command": " ".join(words).strip()}


def build_locks() -> Iterator[dict[str, Any]]:
    """Locks of torch's and DeepSpeed's C++ builds: a build that was killed leaves one, and the next run waits for it without a word."""
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
    with suppress(OSError):
        for path in sorted(folder.glob("**/lock")):
            with suppress(OSError):
                yield {"file": str(path), "seconds": round(time.time() - path.stat().st_mtime)}


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU; empty where there is none, with `error` where it cannot say."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        answer = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"],
                                capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return [{"error": " ".join(str(error).split())[:200]}]
    rows = [[word.strip() for word in line.split(",")] for line in answer.splitlines() if line.strip()]
    return [dict(zip(_GPU_FIELDS, row, strict=False)) for row in rows]


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _kind(place: Path) -> str:
    """Of the file system, as `mount` calls it: nfs, ext4, tmpfs ..."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, folder, name, *_ = line.split(" ")
            folder = folder.encode().decode("unicode_escape")
            if len(folder) >= len(best) and place.is_relative_to(folder):
                best, kind = folder, name
    return kind
