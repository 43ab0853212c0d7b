"""Real hosts on one machine: each has network, process ids, name and mounts of its own, and an sshd as its first process. Needs root.

Killing that process is a power cut. The switch between the hosts is a network of its own, so several rigs may stand at once.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from hexareme.launcher.processes import descendants

TOOLS = ("sshd", "ssh", "ssh-keygen", "ip", "unshare", "nsenter", "setpriv")
NETWORK = "10.78.0"
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 60.0

INIT = """set -e
mount --make-rprivate / && mount -t proc proc /proc && mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
echo {name} > /proc/sys/kernel/hostname && ip link set lo up
exec {sshd} -D -e -f /dev/null -h {folder}/hostkey -o AuthorizedKeysFile={folder}/key.pub -o StrictModes=no -o UsePAM=no \
  -o PermitRootLogin=yes -o PasswordAuthentication=no -o PidFile=none -o SetEnv=PATH={path}
"""
CONFIG = """Host *
 IdentityFile {folder}/key
 StrictHostKeyChecking no
 UserKnownHostsFile /dev/null
 LogLevel ERROR
"""


def why_not() -> str | None:
    """Why this machine can raise no hosts; None where it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=SEARCH) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: openssh-server iproute2)"
    if os.geteuid() != 0:
        return "needs root, to raise hosts as namespaces"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True, text=True)
    return f"namespaces are not allowed here: {probe.stderr.strip()}" if probe.returncode else None


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Rig:
    """Hosts n0 (where the user sits), n1, n2 ...

    Args:
        folder: for keys; without blanks.
        count: hosts beside n0.
        path: put first on PATH on every host.
    """

    def __init__(self, folder: Path, count: int, path: Path) -> None:
        self.folder, self._path = folder, path
        self.names = [f"n{number}" for number in range(count + 1)]
        self._switch = f"hexareme-switch-{os.getpid()}"
        self._first: dict[str, int] = {}  # process id of the first process of each host
        self._outer: dict[str, subprocess.Popen] = {}
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("key", "hostkey"):
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / key], check=True)
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(name)} {name}\n" for name in self.names))
        self.config = folder / "ssh_config"
        self.config.write_text(CONFIG.format(folder=folder))
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")
        for name in self.names:
            self.boot(name)

    def address(self, name: str) -> str:
        """Of a host."""
        return f"{NETWORK}.{100 + self.names.index(name)}"

    def boot(self, name: str) -> None:
        """Switches a host on, and waits until its sshd answers."""
        init = INIT.format(folder=self.folder, name=name, sshd=shutil.which("sshd", path=SEARCH), path=f"{self._path}:{SEARCH}")
        with (self.folder / f"{name}.log").open("ab") as log:
            outer = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount", "--pid", "--fork",
                                      "--kill-child=KILL", "sh", "-c", init], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     start_new_session=True)  # no host outlives the tests, however they end
        self._outer[name] = outer
        self._until(lambda: bool(descendants(outer.pid)), f"{name} does not start")
        first = self._first[name] = descendants(outer.pid)[0]
        self._until(lambda: os.readlink(f"/proc/{first}/ns/net") != os.readlink("/proc/self/ns/net"), f"{name} has no network")
        last_byte = f"{100 + self.names.index(name):02x}"
        ip("-n", self._switch, "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "address", f"02:78:00:00:00:{last_byte}",
           "netns", str(first))
        ip("-n", self._switch, "link", "set", f"v{name}", "master", "br0", "up")
        network = ["nsenter", "-t", str(first), "-n", "ip"]
        subprocess.run([*network, "addr", "add", f"{self.address(name)}/24", "dev", "eth0"], check=True)
        subprocess.run([*network, "link", "set", "eth0", "up"], check=True)
        probe = ["ssh", "-F", str(self.config), "-o", "ConnectTimeout=5", "-o", "BatchMode=yes", "--", name, "true"]
        inside = self.on(name, *probe)
        self._until(lambda: subprocess.run(inside, check=False, capture_output=True).returncode == 0, f"no ssh to {name}")

    def on(self, name: str, *words: str, folder: Path | None = None) -> list[str]:
        """The command line that runs a command on a host, with this process's environment."""
        return ["nsenter", "-t", str(self._first[name]), "-m", "-u", "-n", "-p", *([f"--wd={folder}"] if folder else []), "--", *words]

    def processes(self, name: str) -> list[int]:
        """Ids of all processes of a host, as seen from outside."""
        mine = os.readlink(f"/proc/{self._first[name]}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == mine:
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def alive(self, name: str) -> bool:
        """Whether a host is switched on."""
        return self._outer[name].poll() is None

    def power_off(self, name: str) -> None:
        """Nothing of a host lives on; nobody is told. Its cable goes first, or the kernel would close its connections politely."""
        self.cut(name)
        os.kill(self._first[name], signal.SIGKILL)
        self._outer[name].wait(SECONDS)

    def cut(self, name: str) -> None:
        """The link of a host carries nothing any more."""
        ip("-n", self._switch, "link", "set", f"v{name}", "down")

    def restore(self, name: str) -> None:
        """It carries again."""
        ip("-n", self._switch, "link", "set", f"v{name}", "up")

    def mend(self) -> None:
        """All hosts on, all links up."""
        for name in self.names:
            if self.alive(name):
                self.restore(name)
            else:
                subprocess.run(["ip", "-n", self._switch, "link", "del", f"v{name}"], check=False, capture_output=True)
                self.boot(name)

    def close(self) -> None:
        """Nothing of it is left."""
        for outer in self._outer.values():
            outer.kill()
            outer.wait(SECONDS)
        ip("netns", "del", self._switch)

    @staticmethod
    def _until(condition, what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.05)
