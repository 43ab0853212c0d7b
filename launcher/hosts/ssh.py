"""The command line of ssh to one host. Pure. Nothing on it is secret: `ps` shows it to everybody."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

NODE = "hexareme.launcher.hosts.node"
LOOKS = 3  # unanswered keepalives before ssh gives a host up


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """How hosts are reached.

    Args:
        python: interpreter on the hosts.
        port: 0: as ssh's own configuration says.
        config_file: empty: the user's own.
        connect_seconds: for a host to answer.
        silence_seconds: after which a host that says nothing is lost.
    """

    python: str
    port: int
    config_file: str
    connect_seconds: int
    silence_seconds: int

    def arguments(self, host: str, program: Sequence[str] = ()) -> list[str]:
        """The words of the command for a host.

        Args:
            host: its name, as the hostfile's grammar allows it.
            program: what it starts there; empty: the front end of that host.
        """
        options = {
            "BatchMode": "yes",  # never asks for a password
            "ConnectTimeout": str(self.connect_seconds),
            "ServerAliveInterval": str(self.silence_seconds // 2 + 1),
            "ServerAliveCountMax": str(LOOKS),  # later than our own beat, which names the silence
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "ControlPath": "none",  # a connection of its own: nobody else's end is ours
            "EscapeChar": "none",
        }
        words = ["ssh", "-T", *(f"-o{name}={value}" for name, value in options.items())]
        words += [f"-p{self.port}"] if self.port else []
        words += ["-F", self.config_file] if self.config_file else []
        return [*words, "--", host, remote_command(program or [self.python, "-P", "-m", NODE])]


def remote_command(program: Sequence[str]) -> str:
    """What the login shell of a host runs: `exec`, so that ssh sees how it ends.

    Args:
        program: its words; of Python's, -P, so that no file where it starts shadows a module.
    """
    return f"exec {shlex.join(program)}"


def passed_on(variables: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The environment that the hosts get beside their own.

    Args:
        variables: of the front end.
        names: allowed; `NCCL_*` for all that begin so.
    """
    return {name: value for name, value in variables.items() if any(fnmatchcase(name, allowed) for allowed in names)}
