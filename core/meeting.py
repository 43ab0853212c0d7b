"""The ranks meet: each says who it is, rank 0 looks whether all are there and alike, and all are told the same.

The store is torch's TCPStore, served by rank 0 on a socket that its watcher bound, or by torchrun's agent. What c10d offers by itself only
counts the clients and times out without a name.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any, TypeVar

import torch.distributed as dist

from .checkpoint.agreement import differences
from .errors import MissingRankError, PeerError, PortError, Preempted, RunError
from .roll_call import Card, missing, objection

PACKAGES = ("torch", "deepspeed", "hexareme")
GROUP_TIMEOUT = timedelta(minutes=30)  # one rank may verify a large corpus while the others wait
STOP_SECONDS = 2.0  # for a meeting that is nearly complete when somebody asks us to stop
VERDICT_SECONDS = 5.0  # beyond rank 0's own patience
FAREWELL_SECONDS = 1.0  # for all to read why there is no run, before rank 0 takes the store with it
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.2
MOST_DIFFERENCES = 5
_ERRORS = {kind.__name__: kind for kind in (MissingRankError, PeerError, PortError)}

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Venue:
    """Where the ranks meet.

    Args:
        address: of rank 0's host.
        port: where rank 0 listens; None where that is not known yet. Asked again until rank 0 answers.
        listener: descriptor of rank 0's listening socket; None on other ranks.
        agent_store: whether torchrun's agent serves the store there.
        attempt: what all ranks of this attempt were told.
    """

    address: str
    port: Callable[[], int | None]
    listener: int | None
    agent_store: bool
    attempt: str

    def words(self) -> str:
        """For a message."""
        return f"{self.address}:{self.port() or 'a port that rank 0 has not told yet'}"


class Patience:
    """How long to wait, and what else to look at meanwhile.

    Args:
        seconds: at most.
        tick: called at each look: waiting for others is no hang.
        stop_requested: whether somebody asks this process to stop.
    """

    def __init__(self, seconds: float, *, tick: Callable[[], None] = lambda: None,
                 stop_requested: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self._tick, self._stop_requested = tick, stop_requested
        self._asked: float | None = None

    def until(self, found: Callable[[], Result | None], *, seconds: float) -> Result | None:
        """What `found` gives as soon as it is not None; None when the time is over.

        Raises:
            Preempted: somebody asked to stop, and it went on for too long.
        """
        deadline, pause = time.monotonic() + seconds, SHORTEST_PAUSE
        while (result := found()) is None:
            now = time.monotonic()
            self._tick()
            if self._stop_requested():
                self._asked = self._asked or now
                if now - self._asked > STOP_SECONDS:
                    raise Preempted("stopped by a signal before all ranks had met; nothing was changed", do="start the same command again")
            if now > deadline:
                return None
            time.sleep(min(pause, max(deadline - now, SHORTEST_PAUSE)))
            pause = min(2 * pause, LONGEST_PAUSE)
        return result


@dataclass(frozen=True)
class Met:
    """All ranks are there.

    Args:
        store: for the process group; serves as long as rank 0 keeps it.
        token: of the attempt, from rank 0.
    """

    store: dist.Store
    token: str


def own_card(rank: int, world_size: int, *, folder: str = "") -> Card:
    """What this process says of itself."""
    return Card(rank=rank, world_size=world_size, host=os.uname().nodename, pid=os.getpid(), folder=folder,
                versions={name: version(name) for name in PACKAGES})


def meet(me: Card, venue: Venue, *, config: Mapping[str, Any], token: Callable[[], str], patience: Patience) -> Met:
    """Waits until all ranks are there and alike.

    Args:
        me: this process.
        venue: where.
        config: plain values; must be the same on all ranks.
        token: of the attempt that holds the run folder, as this process sees it; asked when rank 0 is there.
        patience: for the others.

    Raises:
        MissingRankError: somebody has not come in time; the same on all that came.
        PortError: somebody cannot be a rank of this run; the same on all that came.
        PeerError: rank 0 was lost meanwhile.
        Preempted: asked to stop.
    """
    if me.world_size == 1:
        return Met(dist.HashStore(), token())
    try:
        store = open_store(me, venue, patience)
        if me.rank == 0:
            return _receive(me, store, config, token(), patience)
        return _arrive(me, store, config, token, patience)
    except dist.DistError as error:
        first_line = str(error).splitlines()[0]
        raise PeerError(f"the meeting at {venue.words()} broke off: {first_line}", do="look at rank 0's log for the first cause") from error


def open_store(me: Card, venue: Venue, patience: Patience) -> dist.Store:
    """The store, once rank 0 of this attempt serves it.

    Raises:
        MissingRankError: nobody serves it.
        PortError: somebody else does.
    """
    if me.rank == 0 and not venue.agent_store:
        assert venue.listener is not None
        served = dist.TCPStore("127.0.0.1", venue.port() or 0, is_master=True, wait_for_workers=False, master_listen_fd=venue.listener,
                               timeout=GROUP_TIMEOUT)
        served.set("attempt", venue.attempt)
        return dist.PrefixStore(venue.attempt, served)
    store = _connected(me, venue, patience)
    if not venue.agent_store:
        patience.until(lambda: store.check(["attempt"]) or None, seconds=VERDICT_SECONDS)
        other = store.get("attempt").decode() if store.check(["attempt"]) else "none"
        if other != venue.attempt:
            raise PortError(f"at {venue.words()} (MASTER_ADDR, MASTER_PORT) another run's ranks meet: attempt {other}, not {venue.attempt}",
                            do="give each run its own MASTER_PORT")
    return dist.PrefixStore(venue.attempt, store)


def _connected(me: Card, venue: Venue, patience: Patience) -> dist.Store:
    """torch's client waits without end for a server that accepts and stays silent: it does so in a thread."""
    begin = time.monotonic()
    made: list[dist.Store] = []

    def knock() -> int | None:
        port = venue.port()
        if port is None:
            return None
        try:
            socket.create_connection((venue.address, port), timeout=1.0).close()
        except OSError:
            return None
        return port

    def connect(port: int) -> None:
        made.append(dist.TCPStore(venue.address, port, is_master=False, wait_for_workers=False, timeout=GROUP_TIMEOUT))

    heard = patience.until(knock, seconds=patience.seconds)
    if heard:
        threading.Thread(target=connect, args=(heard,), name="hexareme-meeting", daemon=True).start()
        patience.until(lambda: made or None, seconds=patience.seconds - (time.monotonic() - begin))
    if not made:
        silent = "accepts, but does not answer" if heard else "does not listen"
        raise MissingRankError(f"rank 0 of {me.world_size} did not come within {patience.seconds:.0f} s: {venue.words()} {silent}",
                               do="look whether rank 0 was started and at its log; else MASTER_ADDR or MASTER_PORT is wrong")
    return made[0]


def _receive(me: Card, store: dist.Store, config: Mapping[str, Any], token: str, patience: Patience) -> Met:
    """Rank 0: lets them in one by one, and tells all the same."""
    first = Card(**asdict(me) | {"token": token})
    store.set("config", json.dumps(config))
    store.set("open", "1")
    came, admitted = [first], {0: 0}
    refusal: RunError | None = None

    def complete() -> bool | None:
        nonlocal refusal
        while refusal is None and store.check([f"card/{len(came)}"]):
            card = Card(**json.loads(store.get(f"card/{len(came)}")))
            refusal = objection(first, came, card)
            admitted[card.rank] = len(came)
            came.append(card)
        return True if refusal is not None or len(came) == first.world_size else None

    if not patience.until(complete, seconds=patience.seconds):
        refusal = missing(first, came, seconds=patience.seconds)
    if refusal is None:
        store.set("verdict", json.dumps({"token": token, "admitted": admitted}))
        return Met(dist.PrefixStore("group", store), token)
    store.set("verdict", json.dumps({"error": type(refusal).__name__, "what": str(refusal), "do": refusal.do}))
    Patience(FAREWELL_SECONDS).until(lambda: store.add("read", 0) >= store.add("arrivals", 0) or None, seconds=FAREWELL_SECONDS)
    raise refusal


def _arrive(me: Card, store: dist.Store, config: Mapping[str, Any], token: Callable[[], str], patience: Patience) -> Met:
    """Any other rank: says who it is, and hears what comes of it."""
    patience.until(lambda: store.check(["open"]) or None, seconds=patience.seconds)
    if not store.check(["open"]):
        raise MissingRankError(f"rank 0 of {me.world_size} did not come within {patience.seconds:.0f} s", do="look at rank 0's log")
    card = Card(**asdict(me) | {"token": token(), "difference": _difference(json.loads(store.get("config")), config)})
    place = store.add("arrivals", 1)
    store.set(f"card/{place}", json.dumps(asdict(card)))
    heard = patience.until(lambda: store.check(["verdict"]) or None, seconds=patience.seconds + VERDICT_SECONDS)
    if not heard:
        raise PeerError("rank 0 stopped answering while the ranks met", do="look at rank 0's log")
    verdict = json.loads(store.get("verdict"))
    if "error" in verdict:
        store.add("read", 1)
        raise _ERRORS[verdict["error"]](verdict["what"], do=verdict["do"])
    if verdict["admitted"].get(str(me.rank)) != place:
        raise PortError(f"RANK={me.rank} came twice: process {me.pid} on host {me.host} came last", do="give each process its own RANK")
    return Met(dist.PrefixStore("group", store), verdict["token"])


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    found = differences(theirs, ours)
    words = [f"{each.key}={each.current!r}, rank 0 has {each.saved!r}" for each in found[:MOST_DIFFERENCES]]
    return "; ".join([*words, f"and {len(found) - MOST_DIFFERENCES} more"] if len(found) > MOST_DIFFERENCES else words)
