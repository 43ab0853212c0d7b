"""One run in one folder: `.lock`, held by rank 0's watcher for as long as it lives.

The file is born whole and locked, stays for ever, and says who holds the folder. What it says counts as follows:

    flock held                                   the holder, or a rank that outlived it, is alive: refused
    flock free, holder of this host and boot     it is dead: taken over
    flock free, holder of another host           a network disk may lock for each host alone: taken over once its watcher has not touched
                                                 the file for STALE_SECONDS, by the file system's own clock
    no flock on this file system                 as above; on this host the process itself is looked at
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from secrets import token_hex

from ...core.errors import FolderInUseError, StorageError
from .lock_record import FILE_NAME, NO_FLOCK, Holder, read_descriptor, read_holder, write_record

REFRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
DYING_SECONDS = 3.0  # a killed process gives its flock back only when the kernel has taken it apart
CLAIM_SECONDS = 2.0  # for another host's process that takes the folder at this moment


class Flock(Enum):
    """What the kernel says of a lock."""

    ours = auto()
    held = auto()
    unknown = auto()


class FolderLock:
    """A run folder that is ours. Made by `take`.

    Args:
        path: of the file.
        descriptor: open, and locked where the file system can.
        holder: as the file says.
        message: how it became ours, where somebody had not let go of it; else empty.
    """

    def __init__(self, path: Path, descriptor: int, holder: Holder, message: str) -> None:
        self.message = message
        self._path, self._descriptor, self._holder = path, descriptor, holder

    @classmethod
    def take(cls, directory: Path, *, attempt: str) -> "FolderLock":
        """Makes a run folder ours, or says whose it is. Nothing else in it is touched.

        Args:
            directory: of the run; made if it is not there.
            attempt: what the front end told all ranks of this attempt.

        Raises:
            FolderInUseError: it belongs to a run that lives, or that may live on another host.
            StorageError: the file system lets nobody lock it.
        """
        path, me = directory / FILE_NAME, Holder.here(attempt=attempt, token=token_hex(8))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            while True:
                descriptor = give_birth(path, me)
                if descriptor is not None:
                    return cls(path, descriptor, me, "")
                with suppress(FileNotFoundError):  # somebody removed it meanwhile
                    return inherit(path, me)
        except OSError as error:
            raise StorageError(f"{directory} cannot be locked: {error.strerror}", do="choose a run.directory on a writable disk",
                               file=str(path)) from error

    @property
    def token(self) -> str:
        """Of this attempt, and of no other."""
        return self._holder.token

    def tell_port(self, port: int) -> None:
        """Lets the other ranks of this attempt know where rank 0 listens."""
        self._holder = replace(self._holder, port=port)
        write_record(self._descriptor, self._holder)

    @contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Shows other hosts, from a thread, that the holder lives. Begin it after the last fork."""
        stop = threading.Event()
        thread = threading.Thread(target=self._refresh, args=(stop,), name="hexareme-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(1.0)  # a network disk that hangs must not keep us

    def _refresh(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH_SECONDS):
            with suppress(OSError):
                if self.still_ours():
                    os.utime(self._descriptor)  # by the file system's own clock

    def still_ours(self) -> bool:
        """Whether nobody has taken it over; True where somebody removed the file."""
        try:
            found = read_holder(self._path)
        except FileNotFoundError:
            return True
        return found is not None and found.token == self.token

    def release(self) -> None:
        """The run has ended: the next one needs no takeover."""
        with suppress(OSError):
            if self.still_ours():
                write_record(self._descriptor, replace(self._holder, ended=True))
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also for a process that inherited it and is not gone yet
        os.close(self._descriptor)


def give_birth(path: Path, me: Holder) -> int | None:
    """The first lock of a folder, never seen empty or unlocked: made aside, then linked to its name.

    Returns:
        Its descriptor; None where the folder has one.
    """
    if os.path.lexists(path):
        return None
    aside = path.with_name(f"{FILE_NAME}.{me.token}")
    descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor)
        write_record(descriptor, me)
        os.link(aside, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        aside.unlink()
    return descriptor


def inherit(path: Path, me: Holder) -> FolderLock:
    """Takes the lock that the folder has, from a holder that ended or is dead.

    Raises:
        FileNotFoundError: it was removed meanwhile.
        FolderInUseError: it is somebody else's.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        state, found = wait_for_the_dying(descriptor, path)
        if os.fstat(descriptor).st_ino != path.lstat().st_ino:
            raise FileNotFoundError(path)
        if state is Flock.ours and (found is not None and (found.ended or found.of_this_boot())):
            message = succeed(descriptor, path, me, state)
        else:
            with claim(path, me):
                message = succeed(descriptor, path, me, state)
    except BaseException:
        os.close(descriptor)
        raise
    return FolderLock(path, descriptor, me, message)


def wait_for_the_dying(descriptor: int, path: Path) -> tuple[Flock, Holder | None]:
    """Tries the flock; waits a little for a holder that is dead already, or has said that it ended.

    Raises:
        FolderInUseError: it is held.
    """
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        state, found = lock(descriptor), read_descriptor(descriptor)
        if state is not Flock.held:
            return state, found
        if (found is not None and found.may_live()) or time.monotonic() > deadline:
            raise in_use(path, found, "")
        time.sleep(0.02)


def succeed(descriptor: int, path: Path, me: Holder, state: Flock) -> str:
    """Writes us into the lock if its holder is gone; says so if it had not ended.

    Raises:
        FolderInUseError: the holder may live.
    """
    found = read_descriptor(descriptor)
    message = ""
    if found is None or not found.ended:
        message = f"{path.parent} was held by {found.words() if found else 'somebody whose .lock is damaged'}"
        if found is not None and found.of_this_boot():
            if state is Flock.unknown and found.may_live():
                raise in_use(path, found, "")
            message += ", which is dead: taken over"
        else:
            age = seconds_since_refresh(descriptor, path, me)
            if age < STALE_SECONDS:
                raise in_use(path, found, f"; last sign of life {age:.0f} s ago: if that host is dead, the folder is free in "
                                          f"{STALE_SECONDS - age:.0f} s")
            message += f", without a sign of life for {age:.0f} s: taken over"
    write_record(descriptor, me)
    os.utime(descriptor)
    return message


def in_use(path: Path, found: Holder | None, more: str) -> FolderInUseError:
    """The refusal."""
    who = found.words() if found else "a process that is just starting, or left a damaged .lock"
    return FolderInUseError(f"{path.parent} is in use by {who}{more}", file=str(path),
                            do=f"wait for that run, stop it, or choose another run.name; only if that process is surely gone: rm {path}")


def lock(descriptor: int) -> Flock:
    """Tries to lock a file, without waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Flock.held
    except OSError as error:
        if error.errno in NO_FLOCK:
            return Flock.unknown
        raise
    return Flock.ours


def seconds_since_refresh(descriptor: int, path: Path, me: Holder) -> float:
    """Age of the last sign of life; both times are the file system's, whatever this host's clock says."""
    probe = path.with_name(f"{FILE_NAME}.{me.token}")
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        return probe.stat().st_mtime - os.fstat(descriptor).st_mtime
    finally:
        probe.unlink()


@contextmanager
def claim(path: Path, me: Holder) -> Iterator[None]:
    """One taker at a time, among hosts that do not see each other's flock. Who comes second finds another holder in the file.

    Raises:
        FolderInUseError: another host's process is at it.
    """
    name = path.with_name(f"{FILE_NAME}.claim")
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            break
        except FileExistsError:
            with suppress(FileNotFoundError):
                other = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if seconds_since_refresh(other, path, me) > STALE_SECONDS:  # its maker died within the moment that it takes
                        name.unlink()
                        continue
                finally:
                    os.close(other)
            if time.monotonic() > deadline:
                raise in_use(path, None, "") from None
            time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            name.unlink()
