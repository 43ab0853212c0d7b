"""Two hosts on one machine: each a network of its own with a name of its own, one link between them that can be cut. Needs root."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000  # linux/sched.h
INTERFACE = "eth0"


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class TwoHosts:
    """Made and removed with the test that uses them; named after this process, so that several may be there at once."""

    def __init__(self) -> None:
        self.names = [f"hexareme-{os.getpid()}-{number}" for number in range(2)]
        self.addresses = ["10.79.0.1", "10.79.0.2"]  # of networks that nothing else can see
        ends = [f"hx{os.getpid()}a", f"hx{os.getpid()}b"]
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(self.names, ends, self.addresses, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "link", "set", end, "name", INTERFACE)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            for device in ("lo", INTERFACE):
                ip("-n", name, "link", "set", device, "up")

    def enter(self, number: int) -> None:
        """Moves this process, and what it will fork, onto a host."""
        library = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.names[number]}").open() as network:
            if library.setns(network.fileno(), CLONE_NEWNET) or library.unshare(CLONE_NEWUTS):
                raise OSError(ctypes.get_errno(), "setns")
        socket.sethostname(f"host{number}")

    def cut(self) -> None:
        """The link carries nothing any more; neither side is told."""
        ip("-n", self.names[1], "link", "set", INTERFACE, "down")

    def restore(self) -> None:
        """The link carries again."""
        ip("-n", self.names[1], "link", "set", INTERFACE, "up")

    def close(self) -> None:
        """Nothing of it is left."""
        for name in self.names:
            ip("netns", "del", name)

    def variables(self, rank: int, port: int) -> dict[str, str]:
        """The environment of the one rank of a host, as torchrun sets it."""
        return {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": self.addresses[0],
                "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": self.names[0], "GLOO_SOCKET_IFNAME": INTERFACE}


def on_host(hosts: TwoHosts, number: int, action: Callable[[], int]) -> Callable[[], int]:
    """The action, on that host."""

    def there() -> int:
        hosts.enter(number)
        return action()

    return there
