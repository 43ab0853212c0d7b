"""Where rank 0 listens for the others: bound by its watcher, long before torch is imported, so that a taken port is told at once."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..core.errors import PortError
from .environment import Environment, free_port

BACKLOG = 4096  # all ranks may come at once, before rank 0 has imported torch
TRIES = 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LISTENING = "0A"  # state of a socket in /proc/net/tcp
LONGEST_COMMAND = 200


def with_listener(environment: Environment) -> Environment:
    """The place of rank 0 with its listening socket; that of any other rank, or where none is needed, as it is.

    Raises:
        PortError: the port that somebody gave us is taken; names the holder.
    """
    inherited = environment.listener
    if inherited is not None and listens_on(inherited, environment.master_port):
        os.set_inheritable(inherited, False)  # not by the programs that a rank starts
        return environment
    if environment.rank != 0 or environment.world_size == 1 or environment.agent_store:
        return replace(environment, listener=None)
    listener = listen(environment.master_address, environment.master_port, move=environment.port_is_ours)
    port = listener.getsockname()[1]
    return replace(environment, listener=listener.detach(), master_port=port)


def listen(address: str, port: int, *, move: bool) -> socket.socket:
    """A listening socket.

    Args:
        address: of this host, as the other ranks know it.
        port: wanted.
        move: take another port where this one is taken.

    Raises:
        PortError: it is taken, or not ours to take.
    """
    for _ in range(TRIES):
        try:
            return bind(address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and move:
                port = free_port()
                continue
            why = f"is taken by {holder_of(port)}" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise PortError(f"port {port} (MASTER_PORT) {why}",
                            do="end that process, or choose another port (deepspeed --master_port, torchrun --master-port)") from error
    raise PortError(f"no free port was found in {TRIES} tries", do="set MASTER_PORT to a free port")


def bind(address: str, port: int) -> socket.socket:
    """On this host alone where all ranks are here, else on all its addresses."""
    if address in LOOPBACK:
        return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)


def listens_on(descriptor: int, port: int) -> bool:
    """Whether a descriptor that was inherited is a socket that listens on a port."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and found.getsockname()[1] == port
    except OSError:
        return False


def holder_of(port: int) -> str:
    """Who listens on a port of this host, in words: process id and command line, where /proc shows them."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            if any(os.readlink(link) in inodes for link in (entry / "fd").iterdir()):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {entry.name} ({command[:LONGEST_COMMAND]})"
    return "a process that /proc does not show to this user"


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
