"""A rank's side of its asynchronous saves: the buffer that a state is copied into, and the process that writes it."""

import ctypes
import json
import logging
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import RunError, StorageError
from .manifest import SavedFile, read_files, tensor_fields
from .parts import data_name, failure_fields, failure_of
from .saving import RankFile
from .strict_json import Fields
from .writer import Image

_POPULATE_WRITE = 23  # linux/mman.h, MADV_POPULATE_WRITE (Linux 5.14)
POPULATED_AT_ONCE = 256 * 2**20  # bytes between signs of life
_log = logging.getLogger(__name__)


class HostBuffer:
    """Host memory shared with the worker, without a name: nothing of it can be left behind, not even by SIGKILL.

    Args:
        size: bytes.
        pinned: page-locked, for fast copies from a GPU.
        tick: told while its pages are made.
    """

    def __init__(self, size: int, *, pinned: bool, tick: Callable[[], None]) -> None:
        self.handle = os.memfd_create("hexareme-checkpoint", os.MFD_CLOEXEC)
        os.ftruncate(self.handle, size)
        self._map = mmap.mmap(self.handle, size)
        self.content = memoryview(self._map)
        self._touch(tick)
        if pinned:
            self._lock_pages()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    def _address(self, begin: int = 0) -> ctypes.c_void_p:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._map, begin)))

    def _touch(self, tick: Callable[[], None]) -> None:
        """Make every page now: on first use that would take longer than the copy."""
        libc = ctypes.CDLL(None, use_errno=True)
        for begin in range(0, self.size, POPULATED_AT_ONCE):
            count = min(POPULATED_AT_ONCE, self.size - begin)
            if libc.madvise(self._address(begin), ctypes.c_size_t(count), _POPULATE_WRITE) != 0:
                for page in range(begin, begin + count, mmap.PAGESIZE):
                    self._map[page] = 0
            tick()

    def _lock_pages(self) -> None:
        import torch

        code = torch.cuda.cudart().cudaHostRegister(self._address().value, self.size, 0)
        if int(code) != 0:  # slower, and right all the same
            _log.warning("the host buffer of asynchronous saves could not be page-locked (CUDA error %s)", int(code))


class Helper:
    """One rank's worker process, and what it is at. Made in the main thread: the worker ends with the thread that made it.

    Args:
        buffer: what it writes from.
        fence: raises FolderInUseError where the run folder belongs to a newer attempt; asked once more before a commit.
        rank: for messages.
    """

    def __init__(self, buffer: HostBuffer, *, fence: Callable[[], None], rank: int) -> None:
        self.buffer = buffer
        self.failure: RunError | None = None
        self.files: dict[str, SavedFile] = {}
        self.ticks = 0
        self._fence, self._rank = fence, rank
        self._busy = False
        self._closing = False
        ours, theirs = socket.socketpair()
        self._socket = ours
        # -P: a folder `core` in the working directory must not be imported. A new session: Ctrl-C in the terminal is for training.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hexareme.core.checkpoint.worker", str(theirs.fileno()), str(buffer.handle), str(os.getpid())],
            stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), buffer.handle), start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
        theirs.close()
        threading.Thread(target=self._listen, name="save worker's messages", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether it is writing."""
        return self._busy

    @property
    def alive(self) -> bool:
        """Whether the worker can take a job."""
        return self._process.poll() is None

    def begin(self, image: Image, file: RankFile, staged: Path, *, world_size: int, record: Mapping[str, Any]) -> None:
        """Copy the state, and have it written.

        Args:
            image: the file's bytes.
            file: what lies in them.
            staged: the folder of this save.
            world_size: ranks.
            record: `config` and `extra` of the checkpoint.
        """
        self.failure, self.files = None, {}
        if file.size:
            image.fill(self.buffer.content[: file.size], 0)
        job = {
            "staged": str(staged), "rank": file.rank, "world_size": world_size, "step": file.step, "samples_seen": file.samples_seen,
            "size": file.size, "names": [data_name(file.rank)] if file.size else [],
            "tensors": [tensor_fields(tensor) for tensor in file.tensors], "floats": [list(span) for span in file.floats], **record,
        }
        self._busy = True
        try:
            self._send(job)
        except OSError:
            self._died()

    def close(self) -> None:
        """End the worker, whatever it is at: what it has not committed does not count."""
        self._closing = True
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._socket.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        """What the worker says, in a thread: it may ask while the rank is in the middle of a step."""
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._hear(json.loads(line))
        self._died()

    def _hear(self, message: dict[str, Any]) -> None:
        event = message["event"]
        self.ticks += 1
        if event == "fence":
            self._send({"failure": self._fenced()})
        elif event == "failed":
            self.failure = failure_of(message["failure"])
            self._busy = False
        elif event == "done":
            self.files = read_files(Fields({"files": message["files"]}, Path("worker")))
            self._busy = False

    def _fenced(self) -> dict[str, str] | None:
        try:
            self._fence()
        except Exception as error:
            return failure_fields(self._rank, error)
        return None

    def _died(self) -> None:
        if self._busy and not self._closing:
            code = self._process.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self.failure = StorageError(f"rank {self._rank}: the process that writes checkpoints {how}",
                                        do="see dmesg and the rank's log; free memory, or set checkpoint.asynchronous=false")
        self._busy = False
