"""Files that are on disk when we say so, and disk failures in words. Pure."""

import ctypes
import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..errors import StorageError
from .strict_json import damaged

Result = TypeVar("Result")
STALE_WAITS = (0.5, 1.0, 2.0)  # seconds before each further attempt at a file that its server has lost sight of
ROOM_FACTOR = 2.2  # the newest checkpoint stays until the next one is committed, and a little more
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_WAYS_OUT = {
    errno.ENOSPC: "free space, or set run.directory to a larger disk",
    errno.EDQUOT: "free some of your quota, or set run.directory to another disk",
    errno.EROFS: "make the file system writable, or set run.directory to one that is",
    errno.EIO: "the disk or its server is failing: see dmesg, and set run.directory to another one",
    errno.ESTALE: "see that the file server answers and is mounted, or set run.directory to another disk",
    errno.EACCES: "give this user the right to write there, or set run.directory elsewhere",
}


def storage_error(error: OSError, path: Path, *, need: int = 0) -> StorageError:
    """Say a failed write as an error for the user.

    Args:
        error: what the system said.
        path: the file that was being written.
        need: bytes it takes in all; 0 when that is not the point.
    """
    reason = error.strerror or str(error)
    room = f" (needs {in_words(need)}, {in_words(free_bytes(path))} free)" if need else f" ({in_words(free_bytes(path))} free)"
    way_out = _WAYS_OUT.get(error.errno or 0, "see that the disk is there and works, or set run.directory to another one")
    return StorageError(f"cannot write {path}: {reason}{room}", do=way_out, file=str(path))


def check_room(directory: Path, need_bytes: int) -> None:
    """Refuse to start a run that its disk cannot hold.

    Args:
        directory: where checkpoints will be written; need not exist yet.
        need_bytes: size of one checkpoint.

    Raises:
        StorageError: less than 2.2 times that is free.
    """
    free = free_bytes(directory)
    if free < ROOM_FACTOR * need_bytes:
        raise StorageError(
            f"{directory} has {in_words(free)} free; checkpoints of {in_words(need_bytes)} need {in_words(ROOM_FACTOR * need_bytes)}",
            do=_WAYS_OUT[errno.ENOSPC],
            file=str(directory),
        )


def check_free(directory: Path, need_bytes: int) -> None:
    """Refuse a save that its disk cannot hold, before a byte is written.

    Args:
        directory: of the checkpoints.
        need_bytes: what all ranks will write.

    Raises:
        StorageError: less is free.
    """
    free = free_bytes(directory)
    if free < need_bytes:
        raise StorageError(f"cannot save to {directory}: it needs {in_words(need_bytes)}, and {in_words(free)} are free",
                           do=_WAYS_OUT[errno.ENOSPC], file=str(directory))


def patiently(call: Callable[[], Result]) -> Result:
    """Open or rename on a network disk whose server was away for a moment: ESTALE is tried again, three times in 3.5 s.

    Never for fsync: what a failed fsync was to write is gone.
    """
    for wait in STALE_WAITS:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            time.sleep(wait)
    return call()


def free_bytes(path: Path) -> int:
    """Bytes this user may still write on the disk of `path`, which need not exist."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize


def in_words(count: float) -> str:
    """A number of bytes with a unit, e.g. `3.1 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and sync it; its folder is the caller's to sync.

    Raises:
        StorageError: it could not be written; no part of it stays, so that there is room for a word to the other ranks.
    """
    try:
        with patiently(lambda: path.open("xb")) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        failure = storage_error(error, path, need=len(content))
        with suppress(OSError):
            path.unlink()
        raise failure from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = patiently(lambda: os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: Path) -> int:
    """Open a file for reading, and only if it is a plain file: no link out of the folder, no pipe that would block.

    Raises:
        DamagedError: it is missing, or something else.
    """
    try:
        handle = patiently(lambda: os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise damaged(path, f"it cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise damaged(path, "it is not a plain file")
    return handle


def read_bounded(path: Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes.

    Raises:
        DamagedError: it is missing, larger, or no plain file.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise damaged(path, f"it has {size} bytes; at most {most} make sense")
        return file.read(most + 1)[:most]


def put_in_place(staged: Path, target: Path) -> None:
    """Give a finished folder its final name, in place of an older folder of that name; both names are durable afterwards.

    Where the file system can exchange two names at once, there is no moment without a whole folder under the final name.
    """
    if not os.path.lexists(target):
        patiently(lambda: os.rename(staged, target))
        sync_directory(target.parent)
        return
    aside = staged.with_name(f"{staged.name.removesuffix('.tmp')}.old.tmp")
    if patiently(lambda: _exchange(staged, target)):
        patiently(lambda: os.rename(staged, aside))
    else:
        patiently(lambda: os.rename(target, aside))
        patiently(lambda: os.rename(staged, target))
    sync_directory(target.parent)
    if aside.is_symlink():  # somebody had moved the older one elsewhere; that copy is not ours to delete
        aside.unlink()
    else:
        patiently(lambda: shutil.rmtree(aside))


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux, renameat2); False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in _NO_EXCHANGE:
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))
