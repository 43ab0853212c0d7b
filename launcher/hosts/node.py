"""The front end of one host: started there by ssh, it starts the ranks of that host, and ends with them when nobody holds the other end.

Standard input and output belong to the front end of the run (`messages.py`). Imports no torch.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...conf.errors import ConfigError, Problem
from ...core.errors import RunError
from ..environment import digest
from ..folder.membership import Membership
from ..listener import bind
from ..local import STOP_SECONDS, Crew, Seats, start_program, start_ranks
from ..outcome import outcome_of
from ..processes import adopt_orphans, end_descendants
from ..watch.vigil import watched_signals
from .address import interface_of, own_address
from .channel import Channel
from .messages import BEAT_SECONDS, Message

OUTPUT_SECONDS = 2.0  # for the last of what the ranks printed
CHUNK = 1 << 14


def main() -> int:
    """One host's share of a run, from the setup to the last exit code; the front end of the run tells the user."""
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
    adopt_orphans()
    channel = Channel()
    told = channel.messages()
    setup = next(each["setup"] for each in told if "setup" in each)
    channel.silence_seconds = float(setup["silence_seconds"])
    threading.Thread(target=_beat, args=(channel,), name="hexareme-beat", daemon=True).start()
    try:
        listener, address = prepare(setup)
    except (RunError, ConfigError, OSError) as error:
        channel.tell({"refused": asdict(outcome_of(error))})
        return 1
    channel.tell({"ready": {"host": os.uname().nodename, "address": address, "port": listener.getsockname()[1] if listener else 0}})
    go = next(each["go"] for each in told if "go" in each)
    threading.Thread(target=_obey, args=(told,), name="hexareme-orders", daemon=True).start()
    seats = Seats(first=setup["first"], count=setup["count"], world_size=setup["world_size"], address=go["address"], port=go["port"])
    printed = _output_to(channel)
    processes = start_ranks(setup["overrides"], seats, start_program, token=setup["token"], listener=listener)
    crew = Crew(processes, Path(setup["run"]), membership=Membership(digest(setup["token"])),
                on_end=lambda rank, code: channel.tell({"end": [rank, code]}))
    crew.wait()
    end_descendants(patience_seconds=STOP_SECONDS)
    os.dup2(2, 1)  # the last writer of the ranks' output
    printed.join(OUTPUT_SECONDS)
    channel.tell({"done": crew.spoken and asdict(crew.spoken)})
    return 0


def prepare(setup: Mapping[str, Any]) -> tuple[socket.socket | None, str]:
    """Makes this process what the front end asks for.

    Args:
        setup: of this host.

    Returns:
        The socket on which rank 0 will listen, if it is to run here; this host's address.

    Raises:
        ConfigError, RunError: the folder or the network interface is not there.
    """
    try:
        os.chdir(setup["folder"])
    except OSError as error:
        raise ConfigError([Problem("cluster.folder", setup["folder"], f"cannot be entered on host {os.uname().nodename}: {error.strerror}",
                                   "set cluster.folder to a folder that every host has")]) from error
    address = own_address(setup["interface"], os.environ)
    interface = setup["interface"] or interface_of(address)
    if interface:  # else gloo takes the address of the host's own name, which may be the loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if setup["interface"]:
        os.environ["NCCL_SOCKET_IFNAME"] = interface
    os.environ.update(setup["variables"])
    return bind(address, 0) if setup["first"] == 0 else None, address


def _beat(channel: Channel) -> None:
    while True:
        channel.tell({"beat": 1})
        time.sleep(BEAT_SECONDS)


def _obey(told: Iterator[Message]) -> None:
    for message in told:
        if "signal" in message:
            os.kill(os.getpid(), message["signal"])  # blocked, and taken by the crew as if a shell had sent it


def _output_to(channel: Channel) -> threading.Thread:
    """From now on standard output, as the ranks inherit it, is told to the front end."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(writer)

    def forward() -> None:
        while content := os.read(reader, CHUNK):
            channel.tell({"out": content.decode(errors="surrogateescape")})

    thread = threading.Thread(target=forward, name="hexareme-output", daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
