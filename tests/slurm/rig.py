"""A real Slurm on hosts of this machine: each host a network, a process table and a name of its own. Needs root; leaves nothing behind.

n0 runs slurmctld, n1 and on run a slurmd each. `kill -9` of a host's first process is a power cut. Everything is named after this process,
so that several sessions may run at once, and ends with it, even by SIGKILL.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hexareme.core.parent_death import die_with_parent
from hexareme.launcher.slurm.tools import fields_of

from tests.launcher.processes import default_signals

BIN = Path(sys.executable).parent
PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
NETWORK = "10.78.0"  # of hosts that nothing else can see
INIT = """hostname {host}; mount --make-rprivate /; mount -t proc proc /proc; mount --bind {folder}/hosts /etc/hosts
ip link set lo up; touch {folder}/{host}.ready; trap : TERM; while :; do sleep 3600 & wait $!; done
"""
CONFIG = """ClusterName=hexareme
SlurmctldHost=n0({network}.100)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=15
UnkillableStepTimeout=30
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
JobRequeue=1
NodeName=n[1-{nodes}] NodeAddr={network}.[1-{nodes}] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""


def missing() -> str:
    """What keeps this machine from having a Slurm of its own; empty where nothing does."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    lacking = [program for program in NEEDED if shutil.which(program, path=PATH) is None]
    return f"needs {', '.join(lacking)} (apt-get install slurm-wlm munge iproute2)" if lacking else ""


def with_us() -> None:
    """In a child before it becomes another program: it ends with the session."""
    default_signals()
    die_with_parent(os.getppid())


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Looks rarely: each look may be a program on a host."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


def output(*words: str) -> str:
    """What a program of this machine prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class SlurmRig:
    """The hosts and their daemons.

    Args:
        folder: for all of their files.
        nodes: how many have a slurmd.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.names = folder, [f"n{number}" for number in range(nodes + 1)]
        self._switch = f"hxslurm-{os.getpid()}"
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "SLURM_CONF": str(folder / "slurm.conf"),
                            "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        for name in ("state", *(f"spool.{name}" for name in self.names)):
            (folder / name).mkdir()
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(name)} {name}\n" for name in self.names))
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, network=NETWORK, nodes=nodes))
        for words in (("netns", "add", self._switch), ("-n", self._switch, "link", "add", "br0", "type", "bridge"),
                      ("-n", self._switch, "link", "set", "br0", "up")):
            output("ip", *words)
        self._start_munged()
        for name in self.names:
            self.power_on(name)
        self.await_nodes(self.names[1:])

    def address(self, name: str) -> str:
        """Of a host."""
        return f"{NETWORK}.{int(name[1:]) or 100}"

    def _start_munged(self) -> None:
        """One for all hosts: a socket in the file system crosses networks."""
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        words = ["munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}", f"--pid-file={self.folder / 'munged.pid'}",
                 f"--log-file={self.folder / 'munged.log'}", f"--seed-file={self.folder / 'munge.seed'}"]
        with (self.folder / "munged.out").open("wb") as log:
            self._daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, preexec_fn=with_us))  # noqa: PLW1509
        wait_until(socket.exists, 30)

    def power_on(self, name: str) -> None:
        """A host and its daemon."""
        (self.folder / f"{name}.ready").unlink(missing_ok=True)
        init = self.folder / f"{name}.init"
        init.write_text(INIT.format(host=name, folder=self.folder))
        words = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child=KILL", "bash", str(init)]
        self._hosts[name] = subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                             preexec_fn=with_us)  # noqa: PLW1509
        wait_until((self.folder / f"{name}.ready").exists, 30)
        address = self.address(name)
        mac = f"02:78:00:00:00:{int(address.rpartition('.')[2]):02x}"  # always the same: the others remember it
        subprocess.run(["ip", "-n", self._switch, "link", "del", f"v{name}"], check=False, capture_output=True)  # of a host that lost power
        output("ip", "-n", self._switch, "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "address", mac,
               "netns", str(self.first_process(name)))
        output("ip", "-n", self._switch, "link", "set", f"v{name}", "master", "br0", "up")
        self.on(name, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
        self.on(name, "ip", "link", "set", "eth0", "up")
        self.start_daemon(name)

    def start_daemon(self, name: str) -> None:
        """slurmctld on n0, slurmd on the others."""
        words = ["slurmctld", "-D"] if name == "n0" else ["slurmd", "-D", "-N", name]
        self._daemons.append(subprocess.Popen(self._there(name, words), env=self.environment, stdin=subprocess.DEVNULL,
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=with_us))  # noqa: PLW1509

    def kill_slurmd(self, name: str) -> None:
        """SIGKILL to the daemon alone: what it started lives on."""
        self.on(name, "kill", "-9", (self.folder / f"slurmd.{name}.pid").read_text().strip())

    def power_off(self, name: str) -> None:
        """A power cut: every process of the host is gone at once."""
        os.kill(self.first_process(name), signal.SIGKILL)
        self._hosts.pop(name).wait()

    def first_process(self, name: str) -> int:
        """Of a host, as this machine numbers it."""
        unshare = self._hosts[name].pid
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    def _there(self, name: str, words: Sequence[str], folder: Path = Path("/")) -> list[str]:
        return ["nsenter", "-t", str(self.first_process(name)), "-m", "-u", "-n", "-p", f"--wd={folder}", "--", *words]

    def on(self, name: str, *words: str, folder: Path = Path("/"), **variables: str) -> str:
        """What a command prints on a host; its failure fails the test."""
        done = self.attempt(name, *words, folder=folder, **variables)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, name: str, *words: str, folder: Path = Path("/"), **variables: str) -> "subprocess.CompletedProcess[str]":
        """A command on a host, however it ends."""
        return subprocess.run(self._there(name, words, folder), env=self.environment | variables, capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL, timeout=120)

    def programs(self, name: str, word: str) -> list[int]:
        """Process ids, as the host numbers them, of the programs with a word in their command line."""
        rows = [line.split(None, 1) for line in self.on(name, "ps", "-eo", "pid,args", "--no-headers").splitlines()]
        return [int(row[0]) for row in rows if len(row) == 2 and word in row[1]]

    def job(self, job: str) -> dict[str, str]:
        """What Slurm says of a job."""
        return fields_of(self.on("n0", "scontrol", "-o", "show", "job", job))

    def await_nodes(self, names: Sequence[str], seconds: float = 60) -> None:
        """Until nodes can take jobs."""
        def ready() -> bool:
            done = self.attempt("n0", "sinfo", "-h", "-N", "-o", "%N %t")
            return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] in ("idle", "mix", "alloc")} >= set(names)

        wait_until(ready, seconds)

    def close(self) -> None:
        """Ends all of it."""
        for name in list(self._hosts):
            self.power_off(name)
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        output("ip", "netns", "del", self._switch)
