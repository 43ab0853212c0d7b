"""Under which address the other hosts reach this one."""

import fcntl
import os
import socket
import struct
from collections.abc import Mapping

from ...core.errors import PortError

SIOCGIFADDR = 0x8915  # linux/sockios.h
NAME_BYTES = 15  # IFNAMSIZ without the final zero


def interface_address(name: str) -> str | None:
    """The IPv4 address of a network interface of this host; None where it has none.

    Args:
        name: as in `ip link`.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:NAME_BYTES]))
        except OSError:
            return None
    return socket.inet_ntoa(found[20:24])  # struct ifreq: the name, then a sockaddr_in


def interface_of(address: str) -> str:
    """The interface that has an address; empty where none does."""
    return next((name for _, name in socket.if_nameindex() if interface_address(name) == address), "")


def own_address(interface: str, variables: Mapping[str, str]) -> str:
    """This host's address: of the interface that the user named, else the one at which ssh reached it. A name that a host gives itself may
    be the loopback address in its own /etc/hosts, and an alias of ssh's configuration is no name for other hosts.

    Args:
        interface: as in `ip link`; empty: none is named.
        variables: the environment of a program that sshd started.

    Raises:
        PortError: there is no such interface, or it has no IPv4 address.
    """
    if interface:
        found = interface_address(interface)
        if found is None:
            raise PortError(f"host {os.uname().nodename} has no network interface {interface!r} with an IPv4 address",
                            do=f"set cluster.interface to one of {', '.join(name for _, name in socket.if_nameindex())}")
        return found
    told = variables.get("SSH_CONNECTION", "").split()  # client address, client port, server address, server port
    return told[2] if len(told) == 4 else "127.0.0.1"
