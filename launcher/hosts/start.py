"""`hexareme train cluster=ssh`: one ssh to each host, and at its other end a front end (`node.py`) that starts the ranks there.

The hosts are made ready first; then host 0 says where rank 0 listens, and all are told to go. From then on both ends hear from each
other every second. Where one is silent for `cluster.link_timeout`, this end blames the host and stops the others, and the other end kills
its ranks.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex

from ...conf.schema import Config
from ...core.errors import MissingRankError, PeerError, PortError, Preempted
from ...core.roll_call import ranges
from ..environment import digest
from ..folder.membership import Membership
from ..local import PREEMPTED_SECONDS, STOP_SECONDS, Attempt, concluded
from ..outcome import CONFIG_CODE, IN_USE_CODE, PEER_CODE, SIGNAL_CODE, ExitFile, Outcome, last_step, outcome_of, reason_of
from ..processes import adopt_orphans, end_descendants
from ..watch.vigil import next_signal, watched_signals
from .link import HostLog, Link
from .messages import BEAT_SECONDS, Message
from .ssh import Ssh, passed_on

POLL_SECONDS = 0.2
OTHER_HOSTS_SECONDS = STOP_SECONDS + 5.0  # a host first ends its ranks by itself
FAREWELL_SECONDS = 2.0  # for ssh to end after its host's last word
ECHO = reason_of(PeerError("", do=""))
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # of a shell
MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be started, and where.

    Args:
        overrides: of the run, validated already.
        hosts: by name, in the order of ranks.
        ranks_per_node: on each.
        directory: of the run.
        ssh: how the hosts are reached.
        folder: working folder on the hosts.
        interface: network interface of the hosts; empty: the one at which ssh reaches them.
        variables: passed on to the ranks.
    """

    overrides: Sequence[str]
    hosts: Sequence[str]
    ranks_per_node: int
    directory: Path
    ssh: Ssh
    folder: str
    interface: str
    variables: dict[str, str]

    def setup(self, node: int, token: str) -> Message:
        """What a host is told first."""
        return {"overrides": list(self.overrides), "run": str(self.directory), "folder": self.folder, "interface": self.interface,
                "variables": self.variables, "first": node * self.ranks_per_node, "count": self.ranks_per_node, "token": token,
                "world_size": len(self.hosts) * self.ranks_per_node, "silence_seconds": self.ssh.silence_seconds}


def attempt_hosts(job: Job) -> Attempt:
    """Starts the ranks on all hosts once, and stays until the last host has said that its processes have ended, or is lost.

    Args:
        job: what is to be started.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())
    adopt_orphans()  # helpers of an ssh that was killed
    hosts = Hosts(job, token_hex(8))
    try:
        return hosts.wait()
    finally:
        hosts.close()
        end_descendants(patience_seconds=FAREWELL_SECONDS)


class Hosts:
    """The hosts of one attempt: signals go to all of them, and the first failure ends the others.

    Args:
        job: what is to be started.
        token: of the attempt.
    """

    def __init__(self, job: Job, token: str) -> None:
        self._job, self._directory = job, job.directory
        self._membership = Membership(digest(token))
        self._asked: signal.Signals | None = None
        self._cause: Outcome | None = None  # told by us: a host that is lost, or was never ready
        self._spoken: Outcome | None = None
        self._codes: list[int] = []  # of ranks, in the order in which they ended
        self._deadline: float | None = None
        self._went = False
        self._begun = self._beaten = time.monotonic()
        self._links: list[Link] = []
        for node, host in enumerate(job.hosts):
            ranks = range(node * job.ranks_per_node, (node + 1) * job.ranks_per_node)
            log = HostLog(job.directory / "logs" / f"host-{host}.log", self._owns)
            self._links.append(Link(host, ranks, job.ssh.arguments(host), log))
            self._links[-1].tell({"setup": job.setup(node, token)})
        self._open = list(self._links)

    def wait(self) -> Attempt:
        """How the attempt ended."""
        while self._open:
            self._hear()
            self._look_for_lost()
            self._beat()
            caught = next_signal(watched_signals(), 0)
            if caught is not None:
                self._pass_on(caught)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._give_up()
        if self._cause is not None:
            return Attempt(code=self._cause.code, asked=self._asked, cause=asdict(self._cause))
        return concluded(self._codes, self._directory, asked=self._asked, spoken=self._spoken)

    def close(self) -> None:
        """Leaves no ssh behind."""
        deadline = time.monotonic() + FAREWELL_SECONDS
        for link in self._links:
            while link.done and not link.ended() and time.monotonic() < deadline:
                list(link.hear())
                time.sleep(0.01)
            link.close()

    def _hear(self) -> None:
        poll = select.poll()
        for link in self._open:
            for stream in link.open_streams:
                poll.register(stream, select.POLLIN)
        poll.poll(POLL_SECONDS * 1000)
        for link in list(self._open):
            for message in list(link.hear()):  # all of it, before what it says may close the link
                self._take(link, message)

    def _take(self, link: Link, message: Message) -> None:
        if "ready" in message:
            link.ready = message["ready"]
            if all(each.ready for each in self._links):
                self._go()
        elif "refused" in message:
            self._end_before_start(Outcome(**message["refused"]).at(rank=link.ranks[0], step=0))
        elif "end" in message:
            rank, code = message["end"]
            self._codes.append(code)
            self._after(rank, code)
        elif "done" in message:
            link.done = True
            if message["done"] is not None:
                self._spoken = self._spoken or Outcome(**message["done"])
            link.hang_up()
            self._forget(link)

    def _go(self) -> None:
        first = self._links[0].ready or {}
        if len(self._links) > 1 and first["address"].startswith(("127.", "::1")):
            why = f"host {self._links[0].name} is reached at {first['address']}, and no other host can reach rank 0 there"
            self._end_before_start(outcome_of(PortError(why, do="name it in the hostfile as others know it, or set cluster.interface"))
                                   .at(rank=0, step=0))
            return
        self._went = True
        names = ", ".join(f"{link.name} (ranks {ranges(link.ranks)})" for link in self._links[:MOST_NAMED])
        print(f"hosts: {names}{' ...' if len(self._links) > MOST_NAMED else ''}; rank 0 listens at {first['address']}:{first['port']}",
              flush=True)
        for link in self._links:
            link.tell({"go": {"address": first["address"], "port": first["port"]}})

    def _after(self, rank: int, code: int) -> None:
        """The first failure decides; what we then end ourselves tells nothing new."""
        if code == 0 or self._deadline is not None:
            return
        preempted = code == Preempted.exit_code
        self._deadline = time.monotonic() + (PREEMPTED_SECONDS if preempted else OTHER_HOSTS_SECONDS)
        if not preempted:
            self._send(signal.SIGKILL if code == IN_USE_CODE and rank == 0 else signal.SIGTERM)

    def _look_for_lost(self) -> None:
        now = time.monotonic()
        for link in list(self._open):
            if link.ended() and not link.open_streams:
                self._lose(link, f"ssh ended with exit code {link.status}" + (f": {link.log.last}" if link.log.last else ""))
            elif link.ready is None and now - self._begun > self._job.ssh.connect_seconds + self._job.ssh.silence_seconds:
                self._lose(link, f"it was not ready after {now - self._begun:.0f} s")
            elif link.ready is not None and now - link.heard > self._job.ssh.silence_seconds:
                self._lose(link, f"nothing was heard from it for {now - link.heard:.0f} s (cluster.link_timeout): it is off or frozen, or "
                                 "its link is cut; its ranks end themselves after the same time")

    def _lose(self, link: Link, why: str) -> None:
        dismissed = link.dismissed
        link.close()
        self._forget(link)
        if dismissed:  # we asked for it
            self._codes.append(SIGNAL_CODE + signal.SIGKILL)
            return
        who = f"host {link.name} (rank{'s' * (len(link.ranks) > 1)} {ranges(link.ranks)})"
        if not self._went:
            missing = Outcome(code=PEER_CODE, reason=reason_of(MissingRankError("", do="")), what=f"{who} did not start: {why}",
                              do=f"see that `ssh {link.name} true` works without a password, or take it out of the hostfile")
            if link.status in (NOT_FOUND, NOT_EXECUTABLE):
                missing = replace(missing, code=CONFIG_CODE, reason="config",
                                  do="set cluster.python to an interpreter on the hosts that has hexareme")
            self._end_before_start(missing.at(rank=link.ranks[0], step=0))
            return
        self._blame(Outcome(code=PEER_CODE, reason="host_lost", rank=link.ranks[0], step=last_step(self._directory),
                            what=f"{who} was lost: {why}",
                            do="look whether it is up and its network works; the same command goes on from the last checkpoint"))

    def _blame(self, outcome: Outcome) -> None:
        """A host that is lost is the cause, unless a rank has told another one: that it misses its peers is only an echo of ours."""
        exit_file = ExitFile(self._directory)
        standing = (exit_file.read() or {}) if self._owns() else {}
        told = standing.get("code") not in (None, 0, Preempted.exit_code) and standing.get("reason") != ECHO
        self._codes.append(outcome.code)
        if told or self._cause is not None or self._asked is not None:
            sys.stderr.write(f"{outcome.what}\n")
        else:
            self._cause = outcome
            sys.stderr.write(outcome.line() + "\n")
            if self._owns():
                exit_file.correct(outcome)
        if self._deadline is None:
            self._deadline = time.monotonic() + OTHER_HOSTS_SECONDS
            self._send(signal.SIGTERM)

    def _end_before_start(self, outcome: Outcome) -> None:
        """Nothing runs yet: all are sent home."""
        if self._cause is None:
            self._cause = outcome
            sys.stderr.write(outcome.line() + "\n")
        for link in self._open:
            link.close()
        self._open = []

    def _pass_on(self, caught: signal.Signals) -> None:
        self._asked = self._asked or caught
        if self._went:
            self._send(caught)
        else:
            self._end_before_start(Outcome(code=Preempted.exit_code, reason=reason_of(Preempted("", do="")), rank=0,
                                           what=f"stopped by {caught.name} before all hosts were ready; nothing was changed",
                                           do="start the same command again"))

    def _send(self, number: signal.Signals) -> None:
        for link in self._open:
            link.tell({"signal": int(number)}) if number is not signal.SIGKILL else link.hang_up()

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            for link in self._open:
                link.tell({"beat": 1})

    def _give_up(self) -> None:
        """Hosts that do not end: their front ends are killed by the end of ssh, and their ranks with them."""
        for link in self._open:
            sys.stderr.write(f"host {link.name} was still busy and was cut off: its ranks are killed\n")
            link.close()
        self._codes += [SIGNAL_CODE + signal.SIGKILL]
        self._open = []

    def _forget(self, link: Link) -> None:
        if link in self._open:
            self._open.remove(link)

    def _owns(self) -> bool:
        return self._membership.owns(self._directory)


def job_of(config: Config, overrides: Sequence[str], hosts: Sequence[str]) -> Job:
    """What `hexareme train cluster=ssh` starts from here.

    Args:
        config: of the run.
        overrides: that made it.
        hosts: by name.
    """
    cluster = config.cluster
    ssh = Ssh(python=cluster.python or sys.executable, port=cluster.ssh_port, config_file=cluster.ssh_config,
              connect_seconds=cluster.connect_timeout, silence_seconds=cluster.link_timeout)
    return Job(overrides=overrides, hosts=hosts, ranks_per_node=cluster.ranks_per_node, directory=Path(config.run.directory), ssh=ssh,
               folder=cluster.folder or os.getcwd(), interface=cluster.interface,
               variables=passed_on(os.environ, cluster.environment))
