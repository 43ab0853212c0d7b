"""Saves that fail or die, in real processes on real file systems: the older checkpoints stay, and the next save clears up."""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from hexareme.core.checkpoint.blocks import Block, BlockReaders, blocks_of
from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.checkpoint.folder import staged_folders
from hexareme.core.checkpoint.fragment import Fragment
from hexareme.core.checkpoint.storage import check_room, free_bytes
from hexareme.core.errors import RunError, StorageError
from hexareme.parallel.partition import Piece, ShardSpec

from .disks import on_own_disk, remount
from .ranks import ForkedRanks, alone

MEGABYTE = 2**20
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def halves(rank: int, step: int, count: int = MEGABYTE // 4) -> list[Fragment]:
    """1 MiB on each of two ranks; all elements are the step."""
    spec = ShardSpec((2 * count,), 0, (Piece(0, rank * count, count),), count)
    return [Fragment("w", "parameter", spec, 0, torch.full((count,), float(step)))]


def save(checkpointer: Checkpointer, rank: int, step: int, count: int = MEGABYTE // 4, config: dict | None = None) -> None:
    checkpointer.save(step=step, samples_seen=step, config=config or {}, extra={}, fragments=halves(rank, step, count))
    checkpointer.finish()


def on_two_ranks(directory: Path, step: int, **options) -> list[dict]:
    return ForkedRanks(2, directory, partial(save, step=step, **options)).wait()


def newest_step(directory: Path) -> int:
    """Step of the newest checkpoint, every block of it verified and every element right."""
    checkpoint = alone(directory).newest()
    assert checkpoint is not None
    checkpoint.verify()
    assert checkpoint.read_tensor("w").eq(checkpoint.step).all()
    return checkpoint.step


def test_threads_that_load_after_a_fork_share_one_pool(tmp_path):
    elements = torch.ones(MEGABYTE)
    elements.sum()  # starts the pool of this process; in a fork, the first thread replaces it, and others would find none
    assert on_two_ranks(tmp_path, 2) == [{"value": None}] * 2
    checkpoint = alone(tmp_path).newest()
    assert checkpoint is not None

    def read(checkpointer: Checkpointer, rank: int) -> int:
        at_once = threading.Barrier(2)

        def use(block: Block, content: memoryview) -> None:
            at_once.wait(timeout=30)
            elements.sum()

        return BlockReaders(checkpoint.folder, checkpoint.manifest.files, use).run(blocks_of(checkpoint.manifest.files))

    for _ in range(20):
        assert [set(outcome) for outcome in ForkedRanks(4, tmp_path, read).wait()] == [{"value"}] * 4


def test_forked_ranks_save_one_checkpoint(tmp_path):
    assert on_two_ranks(tmp_path, 10) == [{"value": None}] * 2
    assert newest_step(tmp_path) == 10
    names = sorted(path.name for path in (tmp_path / "step-00000010").iterdir())
    assert names == ["manifest.json", "rank-00000.safetensors", "rank-00001.safetensors"]


@pytest.mark.parametrize(("room", "config"), [(0.2, 0), (1.0, 0), (1.8, 0), (2.2, MEGABYTE // 2)], ids=["10%", "50%", "90%", "manifest"])
def test_a_full_disk_leaves_the_older_checkpoint_and_its_room(tmp_path, room, config):
    disk = tmp_path / "disk"
    size = 8 * MEGABYTE

    def action() -> dict:
        directory = disk / "checkpoints"
        assert on_two_ranks(directory, 10) == [{"value": None}] * 2
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(free_bytes(disk) - int(room * MEGABYTE)))
        free = free_bytes(disk)
        outcomes = on_two_ranks(directory, 20, config={"text": "x" * config})
        state = {"outcomes": outcomes, "freed": free_bytes(disk) - free, "names": sorted(p.name for p in directory.iterdir())}
        state["step"] = newest_step(directory)
        ballast.unlink()
        assert on_two_ranks(directory, 30) == [{"value": None}] * 2
        return state | {"then": newest_step(directory)}

    result = on_own_disk(disk, size, action)
    for outcome in result["outcomes"]:
        assert outcome["error"] == "StorageError", outcome
        assert str(disk / "checkpoints") in outcome["message"]
        assert "No space left on device" in outcome["message"] and "free" in outcome["message"]
        assert config or "needs 1.0 MB" in outcome["message"]
    assert abs(result["freed"]) <= size // 100
    assert result["names"] == ["latest", "step-00000010"]
    assert (result["step"], result["then"]) == (10, 30)


def test_a_read_only_disk(tmp_path):
    disk = tmp_path / "disk"

    def action() -> list[dict]:
        on_two_ranks(disk / "checkpoints", 10)
        remount(disk, size=8 * MEGABYTE, read_only=True)
        outcomes = on_two_ranks(disk / "checkpoints", 20)
        assert newest_step(disk / "checkpoints") == 10
        return outcomes

    first, second = on_own_disk(disk, 8 * MEGABYTE, action)
    assert first["error"] == second["error"] == "StorageError"
    assert "Read-only file system" in first["message"]


def test_too_little_room_is_refused_before_training(tmp_path):
    disk = tmp_path / "disk"

    def action() -> str:
        directory = disk / "runs" / "x" / "checkpoints"  # does not exist yet
        check_room(directory, int(4 * MEGABYTE / 2.25))
        with pytest.raises(StorageError) as caught:
            check_room(directory, int(4 * MEGABYTE / 2.15))
        return str(caught.value)

    assert re.search(r"has 4\.2 MB free; checkpoints of 2\.0 MB need 4\.3 MB", on_own_disk(disk, 4 * MEGABYTE, action))


def test_killed_at_random_moments(tmp_path):
    """SIGKILL of one rank or both during a save of 2 x 16 MB; the other rank stops too, and the next save clears up."""
    generator = random.Random(3)
    count = 4 * MEGABYTE
    started = time.monotonic()
    assert on_two_ranks(tmp_path, 10, count=count) == [{"value": None}] * 2
    usual = time.monotonic() - started
    killed, newest, steps = 0, 10, iter(range(20, 1000, 10))
    while killed < 6:  # a save that is quicker than the first one is over before the kill, and does not count
        step = next(steps)
        ranks = ForkedRanks(2, tmp_path, partial(save, step=step, count=count))
        time.sleep(generator.uniform(0, usual))
        victims = generator.choice([(0,), (1,), (0, 1)])
        for victim in victims:
            ranks.kill(victim)
        outcomes = ranks.wait()
        killed += any(outcome.get("killed") == -signal.SIGKILL for outcome in outcomes)
        assert all("killed" in o or o.get("error") in (None, "PeerError") for o in outcomes), outcomes
        found = newest_step(tmp_path)
        assert found in (newest, step)
        newest = found
    assert on_two_ranks(tmp_path, 1000, count=count) == [{"value": None}] * 2
    assert newest_step(tmp_path) == 1000
    assert staged_folders(tmp_path) == []
    assert not list(tmp_path.glob("*.tmp"))


def under_strace(directory: Path, step: int, *options: str) -> tuple[int, str]:
    """Save in a forked process to which strace is attached. Returns the process's exit code and the trace."""
    trace = directory.with_suffix(".strace")
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 & 2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER: strace need not be our parent
        os.read(go_read, 1)
        code = 0
        try:
            save(keeping_one(directory), 0, step)
        except RunError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    tracer = subprocess.Popen(["strace", "-qq", "-y", "-p", str(pid), "-o", str(trace), *options], stderr=subprocess.PIPE)
    for _ in range(1000):
        if re.search(r"TracerPid:\t[1-9]", Path(f"/proc/{pid}/status").read_text()):
            break
        time.sleep(0.005)
    os.write(go_write, b"g")
    _, status = os.waitpid(pid, 0)
    tracer.communicate(timeout=30)
    os.close(go_read)
    os.close(go_write)
    return os.waitstatus_to_exitcode(status), trace.read_text()


def keeping_one(directory: Path) -> Checkpointer:
    return Checkpointer(directory, keep=1, rank=0, world_size=1, agree=lambda ok: ok)


def whole(rank: int, step: int) -> list[Fragment]:
    return [Fragment("w", "parameter", ShardSpec.whole((1000,)), 0, torch.full((1000,), float(step)))]


@pytest.fixture
def small(monkeypatch):
    """One rank, 4 kB."""
    monkeypatch.setitem(globals(), "halves", lambda rank, step, count=0: whole(rank, step))


CHANGING = "openat,mkdir,write,fsync,rename,renameat2,unlink,unlinkat,rmdir"


@needs_strace
def test_everything_is_on_disk_before_its_name(tmp_path, small):
    directory = tmp_path / "checkpoints"
    code, trace = under_strace(directory, 10, "-e", "trace=fsync,rename")
    assert code == 0
    events = [re.sub(r"\.step-00000010\.[0-9a-f]+\.tmp", "STAGED", line).replace(str(directory), "D")
              for line in trace.splitlines() if "part-00000" not in line]  # the part lists go before the commit
    order = [re.sub(r"^(\w+)\((?:\d+<)?([^)>]*)>?\) .*", r"\1 \2", event) for event in events]
    assert order == [
        "fsync D/STAGED/rank-00000.safetensors",
        "fsync D/STAGED/manifest.json",
        "fsync D/STAGED",
        'rename "D/STAGED", "D/step-00000010"',
        "fsync D",
        "fsync D/latest.tmp",
        'rename "D/latest.tmp", "D/latest"',
        "fsync D",
    ]


@needs_strace
def test_deleting_takes_the_commit_mark_first(tmp_path, small):
    directory = tmp_path / "checkpoints"
    save(keeping_one(directory), 0, 10)
    _, trace = under_strace(directory, 20, "-e", "trace=unlink,unlinkat,rename,fsync")
    events = trace.splitlines()
    signs = ('latest"', "step-00000010/manifest", 'rank-00000.safetensors", 0')
    order = [next(at for at, event in enumerate(events) if sign in event) for sign in signs]
    assert order == sorted(order)
    assert events[order[1]].startswith("unlink(")
    assert events[order[1] + 1].startswith("fsync(") and "step-00000010>" in events[order[1] + 1]


@needs_strace
@pytest.mark.parametrize(
    "call", ["fsync:error=EIO", "write:error=EIO", "rename:error=EIO", "sync_file_range:error=EIO", "fsync:error=EDQUOT"]
)
def test_a_failing_call_is_never_ignored(tmp_path, small, call):
    directory = tmp_path / "checkpoints"
    save(keeping_one(directory), 0, 10)
    name = call.split(":")[0]
    for when in range(1, 30):
        shutil.rmtree(directory / "step-00000020", ignore_errors=True)
        code, trace = under_strace(directory, 20, "-e", f"trace={name},rename", "-e", f"inject={call}:when={when}")
        if "INJECTED" not in trace:
            break
        assert newest_step(directory) in (10, 20)
        assert staged_folders(directory) == []
        before, failed = ("\n" + trace.split("INJECTED")[0]).rsplit("\n", 1)
        if code == 0:  # the new checkpoint is safe, only pruning failed: a warning is enough
            assert "latest.tmp" in before and "step-00000010" in failed, (when, trace)
        else:
            assert code == 7 or (code == 4 and "part-00000.json" in failed), (when, code, trace)
        save(keeping_one(directory), 0, 10)
    assert when > 1


def killed_everywhere(directory: Path, every: int) -> int:
    """Kill a save at each `every`-th system call that changes the disk; strace counts the calls of each name for themselves."""
    save(keeping_one(directory), 0, 10)
    _, trace = under_strace(directory, 20, "-e", f"trace={CHANGING}")
    counts: Counter[str] = Counter()
    moments = []
    for line in trace.splitlines():
        name = line.split("(")[0]
        counts[name] += 1
        moments.append((name, counts[name]))
    for name, when in moments[::every]:
        shutil.rmtree(directory)
        save(keeping_one(directory), 0, 10)
        code, trace = under_strace(directory, 20, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={when}")
        assert code == -signal.SIGKILL, (name, when, trace)
        assert newest_step(directory) in (10, 20), trace
        save(keeping_one(directory), 0, 30)
        assert newest_step(directory) == 30
        assert sorted(path.name for path in directory.iterdir()) == ["latest", "step-00000030"], trace
    return len(moments[::every])


@needs_strace
def test_killed_at_system_calls_of_a_save_and_its_pruning(tmp_path, small):
    assert killed_everywhere(tmp_path / "checkpoints", every=5) >= 5


@needs_strace
@pytest.mark.nightly
def test_killed_at_every_system_call_of_a_save_and_its_pruning(tmp_path, small):
    assert killed_everywhere(tmp_path / "checkpoints", every=1) >= 30
