"""Several ranks of a save: as threads where speed counts, as forked processes where they must be able to die."""

import json
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hexareme.core.checkpoint.checkpointer import Checkpointer
from hexareme.core.errors import PeerError

Agree = Callable[[bool], bool]


def alone(directory: Path, keep: int = 2) -> Checkpointer:
    return Checkpointer(directory, keep=keep, rank=0, world_size=1, agree=lambda ok: ok)


def on_threads(world_size: int, directory: Path, action: Callable[[Checkpointer, int], Any], keep: int = 2) -> list[Any]:
    """Run `action(checkpointer, rank)` on every rank; exceptions are returned as results."""
    votes = [True] * world_size
    barrier = threading.Barrier(world_size, timeout=30)

    def agreement(rank: int) -> Agree:
        def agree(ok: bool) -> bool:
            votes[rank] = ok
            barrier.wait()
            outcome = all(votes)
            barrier.wait()  # nobody votes again before all have counted
            return outcome

        return agree

    def run(rank: int) -> Any:
        try:
            return action(Checkpointer(directory, keep=keep, rank=rank, world_size=world_size, agree=agreement(rank)), rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))


class ForkedRanks:
    """Forked processes that agree through sockets by way of rank 0; a dead peer is a PeerError, as with a process group.

    Args:
        world_size: how many.
        action: what each does; what it returns must be plain JSON.
    """

    def __init__(self, world_size: int, directory: Path, action: Callable[[Checkpointer, int], Any], keep: int = 2) -> None:
        pairs = [socket.socketpair() for _ in range(world_size)]
        results = [os.pipe() for _ in range(world_size)]
        self.pids: list[int] = []
        for rank in range(world_size):
            pid = os.fork()
            if pid == 0:
                mine = [hub for hub, _ in pairs] if rank == 0 else [pairs[rank][1]]
                for ends in pairs:
                    for end in ends:
                        if end not in mine:
                            end.close()
                agree = _agreement(rank, mine)
                checkpointer = Checkpointer(directory, keep=keep, rank=rank, world_size=world_size, agree=agree)
                self._child(partial(action, checkpointer, rank), results[rank][1])
            self.pids.append(pid)
        for ends in pairs:
            for end in ends:
                end.close()
        for _, write_end in results:
            os.close(write_end)
        self._results = [read_end for read_end, _ in results]

    @staticmethod
    def _child(action: Callable[[], Any], out: int) -> None:
        try:
            result = {"value": action()}
        except Exception as error:
            result = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        os.write(out, json.dumps(result).encode())
        os._exit(0)

    def _kill_all(self) -> None:
        for rank in range(len(self.pids)):
            self.kill(rank)

    def kill(self, rank: int) -> None:
        os.kill(self.pids[rank], signal.SIGKILL)

    def wait(self) -> list[dict[str, Any]]:
        """What each rank returned or raised; {"killed": n} for one that died."""
        outcomes = []
        deadline = threading.Timer(60, self._kill_all)
        deadline.start()
        for pid, handle in zip(self.pids, self._results, strict=True):
            with open(handle, "rb") as file:
                content = file.read()
            _, status = os.waitpid(pid, 0)
            outcomes.append(json.loads(content) if content else {"killed": os.waitstatus_to_exitcode(status)})
        deadline.cancel()
        return outcomes


def _agreement(rank: int, peers: list[socket.socket]) -> Agree:
    def receive(peer: socket.socket) -> bool:
        with suppress(ConnectionError):
            vote = peer.recv(1)
            if vote:
                return vote == b"1"
        raise PeerError("a rank is gone", do="start again")

    def send(peer: socket.socket, ok: bool) -> None:
        try:
            peer.sendall(b"1" if ok else b"0")
        except ConnectionError:
            raise PeerError("a rank is gone", do="start again") from None

    def agree(ok: bool) -> bool:
        if rank != 0:
            send(peers[0], ok)
            return receive(peers[0])
        outcome = all([ok] + [receive(peer) for peer in peers[1:]])
        for peer in peers[1:]:
            send(peer, outcome)
        return outcome

    return agree
