"""The lock of a run folder, process against process: one winner, whoever comes at once, and a takeover only from the dead."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hexareme.core.errors import FolderInUseError, StorageError
from hexareme.launcher.folder import folder_lock
from hexareme.launcher.folder.fence import Fence
from hexareme.launcher.folder.folder_lock import STALE_SECONDS, FolderLock
from hexareme.launcher.folder.lock_record import FILE_NAME, LENGTH, Holder, parse, read_holder, write_record
from hexareme.launcher.folder.membership import Membership
from hypothesis import given
from hypothesis import strategies as st


def no_flock(descriptor: int, operation: int) -> None:
    """A file system without flock."""
    raise OSError(errno.ENOLCK, "no locks available")


def local_flock(descriptor: int, operation: int) -> None:
    """A network disk that locks for each host alone, seen from a host where nobody holds it."""


@contextmanager
def flock(replacement, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", replacement)
        yield


def in_child(action) -> tuple[int, int]:
    """Forks; the child writes 'ok' or the refusal to a pipe and stays until it is killed: process id, end of the pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    os.close(reader)
    try:
        action()
        os.write(writer, b"ok")
    except BaseException as error:
        os.write(writer, f"{type(error).__name__}: {error}".encode())
    time.sleep(60)
    os._exit(0)


def told(reader: int) -> str:
    return os.read(reader, 4096).decode()


def end(*children: int) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def hold(directory: Path, *, host: str | None = None, age: float = 0.0) -> int:
    """A lock that says that this process, or one of another host, holds it, last refreshed so long ago; its flock is free."""
    me = Holder.here(attempt="a", token="0123456789abcdef")
    directory.mkdir(exist_ok=True)
    descriptor = os.open(directory / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    write_record(descriptor, Holder(**me.__dict__ | ({"host": host} if host else {})))
    os.utime(descriptor, (time.time() - age,) * 2)
    return descriptor


# A first lock is linked to its name, which needs no flock; the mutant, for which every flock is free, lets both take over.
RACES = [("flock", "nothing", 40), ("flock", "ended", 10), ("flock", "dead", 100), ("no flock", "nothing", 10), ("no flock", "ended", 10),
         ("no flock", "dead", 30), ("mutant", "ended", 10), ("mutant", "dead", 10)]


@pytest.mark.parametrize(("system", "found", "pairs"), RACES)
def test_of_a_hundred_pairs_one_wins_each(tmp_path, monkeypatch, system, found, pairs):
    """C13."""
    if system == "no flock":
        monkeypatch.setattr(fcntl, "flock", no_flock)
    if system == "mutant":
        monkeypatch.setattr(folder_lock, "lock", lambda descriptor: folder_lock.Flock.ours)
    winners = []
    for number in range(pairs):
        directory = tmp_path / str(number)
        if found != "nothing":
            FolderLock.take(directory, attempt="old").release() if found == "ended" else end(in_child_held(directory))
        gate_reader, gate = os.pipe()

        def rush(directory=directory, gate_reader=gate_reader, gate=gate):
            os.close(gate)
            os.read(gate_reader, 1)
            FolderLock.take(directory, attempt=str(os.getpid()))

        pair = [in_child(rush) for _ in range(2)]
        os.close(gate_reader)
        os.close(gate)  # both go
        winners.append([told(reader) for _, reader in pair].count("ok"))
        end(*(child for child, _ in pair))
        assert os.listdir(directory) == [FILE_NAME]
    assert (set(winners) == {1}) is (system != "mutant"), winners


def in_child_held(directory: Path) -> int:
    """A process that holds the folder."""
    child, reader = in_child(lambda: FolderLock.take(directory, attempt="old"))
    assert told(reader) == "ok"
    return child


def test_a_refusal_names_host_process_and_time_and_touches_nothing(tmp_path):
    child = in_child_held(tmp_path / "run")
    before = (tmp_path / "run" / FILE_NAME).read_bytes(), (tmp_path / "run" / FILE_NAME).stat().st_mtime_ns
    begin = time.monotonic()
    with pytest.raises(FolderInUseError, match=f"process {child} on host {os.uname().nodename} since 20") as caught:
        FolderLock.take(tmp_path / "run", attempt="b")
    assert time.monotonic() - begin < 1 and caught.value.exit_code == 8 and "another run.name" in caught.value.do
    assert ((tmp_path / "run" / FILE_NAME).read_bytes(), (tmp_path / "run" / FILE_NAME).stat().st_mtime_ns) == before
    assert (tmp_path / "run" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    end(child)


def test_from_the_dead_of_this_host_it_is_taken_with_a_message_and_from_who_ended_without(tmp_path):
    child = in_child_held(tmp_path / "run")
    inode = (tmp_path / "run" / FILE_NAME).stat().st_ino
    end(child)
    lock = FolderLock.take(tmp_path / "run", attempt="b")
    assert f"was held by process {child} on host" in lock.message and "which is dead: taken over" in lock.message
    lock.release()
    assert (read_holder(tmp_path / "run" / FILE_NAME) or lock).ended
    again = FolderLock.take(tmp_path / "run", attempt="c")
    assert again.message == "" and again.token != lock.token
    assert (tmp_path / "run" / FILE_NAME).stat().st_ino == inode


def test_a_rank_that_outlives_its_watcher_holds_on(tmp_path):
    reader, writer = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        FolderLock.take(tmp_path / "run", attempt="a")
        rank = os.fork()
        if rank:
            os.write(writer, str(rank).encode())
        time.sleep(60)
        os._exit(0)
    rank = int(told(reader))
    end(watcher)
    with pytest.raises(FolderInUseError, match=f"process {watcher} on host"):
        FolderLock.take(tmp_path / "run", attempt="b")
    os.kill(rank, signal.SIGKILL)
    assert "taken over" in FolderLock.take(tmp_path / "run", attempt="b").message  # waits until the kernel has let go


def test_a_lock_of_another_host_counts_until_it_is_old(tmp_path):
    descriptor = hold(tmp_path, host="elsewhere", age=STALE_SECONDS - 20)
    with pytest.raises(FolderInUseError, match=r"on host elsewhere since .* the folder is free in (19|20) s"):
        FolderLock.take(tmp_path, attempt="b")
    os.utime(descriptor, (time.time() - STALE_SECONDS - 1,) * 2)
    lock = FolderLock.take(tmp_path, attempt="b")
    assert "on host elsewhere" in lock.message and "without a sign of life for 61 s: taken over" in lock.message
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_without_the_look_at_its_age_a_living_host_would_lose_its_folder(tmp_path, monkeypatch):
    """The mutant of the test above."""
    hold(tmp_path, host="elsewhere")
    monkeypatch.setattr(folder_lock, "STALE_SECONDS", -1.0)
    assert FolderLock.take(tmp_path, attempt="b").message


def test_two_hosts_that_do_not_see_each_others_flock_do_not_both_take_over(tmp_path, monkeypatch):
    for number in range(20):
        directory = tmp_path / str(number)
        hold(directory, host="dead", age=STALE_SECONDS + 9)
        gate_reader, gate = os.pipe()

        def rush(name, directory=directory, gate_reader=gate_reader, gate=gate):
            monkeypatch.setattr(fcntl, "flock", local_flock)
            here = os.uname()
            monkeypatch.setattr(os, "uname", lambda: os.uname_result((here.sysname, name, here.release, here.version, here.machine)))
            os.close(gate)
            os.read(gate_reader, 1)
            FolderLock.take(directory, attempt=name)

        pair = [in_child(lambda name=name: rush(name)) for name in ("n0", "n1")]
        os.close(gate_reader)
        os.close(gate)
        assert [told(reader) for _, reader in pair].count("ok") == 1
        end(*(child for child, _ in pair))


def test_the_second_host_on_one_machine(tmp_path):
    """C13: really another host name, by `unshare -u`."""
    child = in_child_held(tmp_path / "run")
    script = ("import sys; from pathlib import Path\nfrom hexareme.launcher.folder.folder_lock import FolderLock\n"
              "FolderLock.take(Path(sys.argv[1]), attempt='b')")
    take = ["unshare", "-u", "sh", "-c", 'hostname n1; exec "$0" -c "$1" "$2"', sys.executable, script, str(tmp_path / "run")]
    refused = subprocess.run(take, text=True, capture_output=True, timeout=60, check=False)
    assert f"in use by process {child} on host {os.uname().nodename}" in refused.stderr
    end(child)  # a dead host, as n1 sees it
    refused = subprocess.run(take, text=True, capture_output=True, timeout=60, check=False)
    assert "the folder is free in " in refused.stderr
    os.utime(tmp_path / "run" / FILE_NAME, (time.time() - 61,) * 2)
    assert subprocess.run(take, text=True, capture_output=True, timeout=60, check=False).returncode == 0
    holder = read_holder(tmp_path / "run" / FILE_NAME)
    assert holder is not None and holder.host == "n1"


def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "REFRESH_SECONDS", 0.05)
    lock = FolderLock.take(tmp_path, attempt="a")
    os.utime(tmp_path / FILE_NAME, (0, 0))
    with lock.kept_fresh():
        time.sleep(0.3)
    assert abs((tmp_path / FILE_NAME).stat().st_mtime - time.time()) < 10
    os.utime(tmp_path / FILE_NAME, (0, 0))
    other = os.open(tmp_path / FILE_NAME, os.O_RDWR)
    write_record(other, Holder.here(attempt="b", token="ffff"))
    os.utime(other, (0, 0))
    with lock.kept_fresh():
        time.sleep(0.3)
    assert (tmp_path / FILE_NAME).stat().st_mtime == 0  # another's lock is not kept alive


def test_the_fence(tmp_path):
    lock = FolderLock.take(tmp_path, attempt="a")
    fence, member = Fence(tmp_path, lock.token), Membership("a")
    fence()
    assert member.owns(tmp_path) and not Membership("b").owns(tmp_path)
    member.admit(lock.token)
    descriptor = os.open(tmp_path / FILE_NAME, os.O_RDWR)
    write_record(descriptor, Holder.here(attempt="a", token="newer"))
    with pytest.raises(FolderInUseError, match=r"belongs to process .* \(attempt newer\); this attempt"):
        fence()
    fence.lately()  # just looked
    assert not member.owns(tmp_path) and not lock.still_ours()
    lock.release()
    assert (read_holder(tmp_path / FILE_NAME) or lock).token == "newer"
    os.ftruncate(descriptor, 10)
    with pytest.raises(FolderInUseError, match="damaged"):
        fence()
    (tmp_path / FILE_NAME).unlink()
    fence()  # nobody has it


def test_the_fence_costs_nothing_visible(tmp_path):
    fence = Fence(tmp_path, FolderLock.take(tmp_path, attempt="a").token)
    begin = time.process_time()
    for _ in range(200):
        fence()
    assert (time.process_time() - begin) / 200 < 1e-3


def test_a_link_to_somewhere_else_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="cannot be locked"):
        FolderLock.take(tmp_path / "run", attempt="a")
    assert (tmp_path / "victim").read_text() == "precious"


@given(st.one_of(st.binary(max_size=2 * LENGTH), st.binary(max_size=80).map(lambda head: head.ljust(LENGTH)),
                 st.dictionaries(st.sampled_from(["host", "boot", "pid", "started", "token", "attempt", "since", "port", "ended", "x"]),
                                 st.one_of(st.text(max_size=9), st.integers(), st.floats(), st.booleans(), st.none()))
                 .map(lambda values: json.dumps(values).encode().ljust(LENGTH))))
def test_a_damaged_record_is_nobodys(content):
    found = parse(content)
    assert found is None or found.words()


def test_a_damaged_lock_is_taken_only_when_it_is_old(tmp_path):
    for content in (b"", b"\x80\x04cos\nsystem\n", b"[" * LENGTH, b"x" * 5000):
        (tmp_path / FILE_NAME).write_bytes(content)
        with pytest.raises(FolderInUseError, match="damaged"):
            FolderLock.take(tmp_path, attempt="a")
        os.utime(tmp_path / FILE_NAME, (time.time() - 99,) * 2)
        lock = FolderLock.take(tmp_path, attempt="a")
        assert "damaged" in lock.message
        lock.release()
