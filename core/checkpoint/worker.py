"""`python -m hexareme.core.checkpoint.worker <socket> <memory> <parent>`: writes the asynchronous saves of one rank.

A process of its own, so that neither Python's lock nor a slow disk holds up the training; it imports no torch, ends with its rank, and
yields processor and disk to everything else. Jobs and answers are lines of JSON, see `helper.py`.
"""

import json
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError, RunError
from ..parent_death import die_with_parent
from .finite import FloatSpan
from .folder import step_of
from .manifest import SavedFile, files_fields, read_tensors
from .parts import failure_fields, failure_of, part_path
from .priority import lower_priority
from .progress import staged_bytes
from .saving import RankFile, commit, write
from .storage import storage_error
from .strict_json import Fields

LOOK_SECONDS = 0.05  # between looks for the other ranks' parts


class Channel:
    """The worker's end of the line to its rank.

    Args:
        handle: of a connected socket.
    """

    def __init__(self, handle: int) -> None:
        self._socket = socket.socket(fileno=handle)
        self._lines = self._socket.makefile("rb")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None where the rank has closed the line."""
        line = self._lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def send(self, event: str, fields: Mapping[str, Any] = MappingProxyType({})) -> None:
        """One message."""
        self._socket.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")

    def tick(self) -> None:
        """The job goes on."""
        self.send("tick")

    def require_ours(self) -> None:
        """Asks the rank whether the folder is still this run's.

        Raises:
            RunError: it is not.
        """
        self.send("fence")
        answer = self.receive()
        if answer is None:
            sys.exit(1)
        if answer["failure"]:
            raise failure_of(answer["failure"])


def main(arguments: list[str]) -> int:
    """Serves the rank until it closes the line or dies."""
    handle, memory, parent = map(int, arguments)
    die_with_parent(parent)
    lower_priority()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # schedulers signal every process of a job; what is under way is for the rank to decide
    channel = Channel(handle)
    image = memoryview(mmap.mmap(memory, os.fstat(memory).st_size, prot=mmap.PROT_READ))
    os.close(memory)
    while (job := channel.receive()) is not None:
        serve(job, image, channel)
    return 0


def serve(job: dict[str, Any], image: memoryview, channel: Channel) -> None:
    """One save; answers `done` or `failed`."""
    staged, rank = Path(job["staged"]), int(job["rank"])
    try:
        files = write(staged, rank_file(job), lambda begin, end: image[begin:end], channel.tick)
        if rank == 0:
            await_parts(staged, job["world_size"], channel.tick)
            channel.require_ours()
            commit(staged, job["world_size"], step=job["step"], config=job["config"], extra=job["extra"])
    except OSError as error:
        channel.send("failed", {"failure": failure_fields(rank, storage_error(error, staged))})
    except Exception as error:  # whatever it is, the rank must hear of it
        channel.send("failed", {"failure": plain_fields(rank, error)})
    else:
        channel.send("done", {"files": files_fields(files)})


def plain_fields(rank: int, error: Exception) -> dict[str, str]:
    """As `failure_fields`; a message that names its rank already is left alone."""
    fields = failure_fields(rank, error)
    if isinstance(error, RunError) and str(error).startswith("rank "):
        fields["message"] = str(error)
    return fields


def rank_file(job: dict[str, Any]) -> RankFile:
    """What a job says of the file."""
    path = Path(job["staged"])
    files = {name: SavedFile(job["size"], ()) for name in job["names"]}
    return RankFile(rank=job["rank"], step=job["step"], samples_seen=job["samples_seen"], size=job["size"],
                    tensors=read_tensors(Fields(job, path), files), floats=[FloatSpan(*span) for span in job["floats"]])


def await_parts(staged: Path, world_size: int, tick: Callable[[], None]) -> None:
    """Until every rank has listed what it wrote; a rank that fails tells the training, which ends this process.

    Args:
        staged: the folder of this save.
        world_size: ranks.
        tick: told whenever the folder has grown.
    """
    seen = 0
    while not all(part_path(staged, rank).exists() for rank in range(world_size)):
        time.sleep(LOOK_SECONDS)
        if not staged.exists():
            raise CheckpointError(f"{staged} was removed while step {step_of(staged.name)} was saved", do="see who else uses the folder")
        size = staged_bytes(staged)
        if size != seen:
            seen = size
            tick()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
