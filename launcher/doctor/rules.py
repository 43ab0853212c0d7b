"""What is wrong with the facts of one machine. Pure: facts in, findings out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...core.checkpoint.storage import in_words
from .finding import Finding, Level

Facts = Mapping[str, Any]
Rule = Callable[[Facts], Iterator[Finding]]

LEAST_OPEN_FILES = 4096
LEAST_SHARED_MEMORY = 1 << 30  # NCCL's rings and DataLoader workers of eight ranks
LEAST_DISK = 10 << 30
MOST_GPU_CELSIUS = 85
OLD_LOCK_SECONDS = 600
HUNDREDTH = 100
MOST_SHOWN = 120  # characters of a command


def findings(facts: Facts) -> list[Finding]:
    """Every rule's findings on one machine, each naming its host."""
    return [Finding(found.check, found.level, found.what, found.do, (facts["host"],)) for rule in RULES for found in rule(facts)]


def _versions(facts: Facts) -> Iterator[Finding]:
    missing = sorted(name for name, number in facts["versions"].items() if not number)
    if missing:
        yield Finding("versions", Level.error, f"not installed: {', '.join(missing)}", "run `make setup`, or install with constraints.txt")
        return
    v = facts["versions"]
    yield Finding("versions", Level.ok, f"python {v['python']}, torch {v['torch']}, deepspeed {v['deepspeed']}, code {facts['code']}")


def _memory(facts: Facts) -> Iterator[Finding]:
    memory = facts["memory"]
    whole = min(memory["total"], memory["limit"] or memory["total"])
    words = f"{in_words(memory['available'])} of {in_words(whole)} available, {facts['cores']} cores"
    if memory["available"] * 2 < whole:
        yield Finding("memory", Level.warning, words, "see who uses the rest (`ps aux --sort=-rss | head`)")
    else:
        yield Finding("memory", Level.ok, words)


def _shared_memory(facts: Facts) -> Iterator[Finding]:
    shared = facts["shared_memory"]
    words = f"/dev/shm: {in_words(shared['free'])} of {in_words(shared['total'])} free"
    if shared["free"] < LEAST_SHARED_MEMORY:
        yield Finding("shared memory", Level.warning, words, "start the container with --shm-size=8g, or remove old files there")
    else:
        yield Finding("shared memory", Level.ok, words)


def _limits(facts: Facts) -> Iterator[Finding]:
    files = facts["limits"]["open_files"]
    if 0 <= files < LEAST_OPEN_FILES:
        yield Finding("limits", Level.warning, f"a process may open {files} files", f"set `ulimit -n {LEAST_OPEN_FILES}` or more")
    else:
        yield Finding("limits", Level.ok, f"a process may open {files if files >= 0 else 'any number of'} files")
    locked = facts["limits"]["locked_memory"]
    if facts["gpus"] and 0 <= locked < LEAST_SHARED_MEMORY:
        yield Finding("limits", Level.warning, f"a process may lock {in_words(locked)} of memory, too little for RDMA",
                      "set `ulimit -l unlimited` (in Slurm: PropagateResourceLimitsExcept=MEMLOCK)")


def _name(facts: Facts) -> Iterator[Finding]:
    found = facts["addresses"]
    if not found:
        yield Finding("name", Level.error, f"{facts['host']} does not resolve to an address", "add it to /etc/hosts or to the name server")
    elif all(address.startswith("127.") or address == "::1" for address in found):
        yield Finding("name", Level.warning, f"{facts['host']} resolves to {', '.join(found)} only: other hosts cannot reach it so",
                      "give it its address in /etc/hosts, or set cluster.interface for many hosts")
    else:
        yield Finding("name", Level.ok, f"{facts['host']} is {', '.join(found)}")


def _disk(facts: Facts) -> Iterator[Finding]:
    disk = facts["disk"]
    words = f"{disk['directory']}: {in_words(disk['free'])} of {in_words(disk['total'])} free on {disk['kind'] or '?'}"
    if not disk["writable"]:
        yield Finding("disk", Level.error, f"{disk['exists']} is not writable", "set run.directory elsewhere, or ask for that right")
    elif disk["free"] < LEAST_DISK or disk["free"] * HUNDREDTH < disk["total"]:
        yield Finding("disk", Level.warning, words, "free space, or set run.directory to a larger disk")
    elif disk["kind"] in ("tmpfs", "overlay"):
        yield Finding("disk", Level.warning, f"{words}: what lies there is gone with the machine", "set run.directory to a disk that stays")
    else:
        yield Finding("disk", Level.ok, words)
    for name, key in (("HOME", "home_writable"), ("/tmp", "temporary_writable")):
        if not facts[key]:
            yield Finding("disk", Level.warning, f"{name} is not writable", "set HOME, TMPDIR and TORCH_EXTENSIONS_DIR to writable folders")


def _port(facts: Facts) -> Iterator[Finding]:
    if not facts["port"]:
        return
    if facts["port_free"]:
        yield Finding("port", Level.ok, f"port {facts['port']} is free")
    else:
        yield Finding("port", Level.error, f"somebody listens on port {facts['port']}", "unset MASTER_PORT, or choose another port")


def _leftovers(facts: Facts) -> Iterator[Finding]:
    found = facts["leftovers"]
    if not found:
        yield Finding("processes", Level.ok, "no process of an older run")
        return
    named = "; ".join(f"{each['process']} ({each['seconds']} s): {_shortened(each['command'])}" for each in found[:3])
    ids = " ".join(str(each["process"]) for each in found[:20])
    yield Finding("processes", Level.warning, f"{len(found)} processes of runs are there: {named}", f"if they are not wanted: kill {ids}")


def _shortened(command: str) -> str:
    """Its end: the overrides tell runs apart, the interpreter's path does not."""
    return command if len(command) <= MOST_SHOWN else f"...{command[-MOST_SHOWN:]}"


def _locks(facts: Facts) -> Iterator[Finding]:
    for lock in facts["locks"]:
        old = lock["seconds"] > OLD_LOCK_SECONDS
        yield Finding("build locks", Level.error if old else Level.warning,
                      f"{lock['file']} is {lock['seconds']} s old: a C++ build holds it, or was killed",
                      f"if no build is under way: rm {lock['file']}")


def _gpus(facts: Facts) -> Iterator[Finding]:
    if not facts["gpus"]:
        yield Finding("gpus", Level.ok, "none: ranks compute on the CPU with gloo")
        return
    for gpu in facts["gpus"]:
        yield from _gpu(gpu)


def _gpu(gpu: Mapping[str, str]) -> Iterator[Finding]:
    if "error" in gpu:
        yield Finding("gpus", Level.error, f"nvidia-smi fails: {gpu['error']}", "see dmesg for NVRM or Xid, and drain the node")
        return
    name, wrong = f"GPU {gpu['index']} {gpu['name']}", False
    used, total = _figure(gpu, "memory.used"), _figure(gpu, "memory.total")
    for holds, what, do in (
        (_figure(gpu, "ecc.errors.uncorrected.volatile.total") > 0, "has uncorrected ECC errors", "drain the node and reset the GPU"),
        (gpu.get("clocks_event_reasons.hw_slowdown") == "Active", "is slowed down by heat or power", "see its cooling and its supply"),
        (_figure(gpu, "temperature.gpu") > MOST_GPU_CELSIUS, f"is at {gpu.get('temperature.gpu')} degrees", "see its cooling"),
        (total > 0 and used > 0.05 * total, f"has {used:.0f} of {total:.0f} MiB in use", "see `nvidia-smi` for who uses it"),
    ):
        if holds:
            wrong = True
            yield Finding("gpus", Level.error if "ECC" in what else Level.warning, f"{name} {what}", do)
    if not wrong:
        yield Finding("gpus", Level.ok, f"{name}: {total:.0f} MiB, {used:.0f} in use, driver {gpu.get('driver_version')}")


def _figure(gpu: Mapping[str, str], key: str) -> float:
    """0 for what a GPU does not tell, as `[N/A]`."""
    try:
        return float(gpu.get(key, "0"))
    except ValueError:
        return 0.0


RULES: tuple[Rule, ...] = (_versions, _gpus, _memory, _shared_memory, _limits, _name, _disk, _port, _leftovers, _locks)
