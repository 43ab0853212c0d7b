"""Run a function on N ranks: torch is imported once, here in the parent, and every case forks fresh children from it.

Each case has its own store on a port the system chose, a time limit, and leaves no process behind. If ranks fail, the error shows the
traceback of the rank that failed first: the others usually only report that they lost their peer.
"""

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection, get_context
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.tensor  # torch.testing imports it late: 2 s in every child if not here, once

_GRACE = 2.0  # seconds the other ranks get to end by themselves after one failed


class RankError(AssertionError):
    """A rank failed, died or ran out of time."""


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 60.0) -> list[Any]:
    """`function(rank, *arguments)` on `world_size` forked ranks with gloo initialised; their results in rank order.

    Args:
        function: any function, also a closure; what it returns must pickle (tensors come back as copies).
        world_size: number of ranks.
        arguments: passed on, shared by copy-on-write.
        timeout: seconds for the whole case.

    Raises:
        RankError: with the traceback of the first rank that failed.
    """
    # rank 0 serves the store on this socket: a server thread here could hold a lock just as a child is forked
    listener = socket.create_server(("127.0.0.1", 0), backlog=world_size)
    fork = get_context("fork")
    readers, children = [], []
    try:
        for rank in range(world_size):
            reader, writer = fork.Pipe(duplex=False)
            child = fork.Process(target=_child, args=(writer, listener, rank, world_size, timeout, function, arguments))
            child.start()
            writer.close()
            readers.append(reader)
            children.append(child)
        listener.close()
        return _collect(readers, children, timeout)
    finally:
        listener.close()
        for child in children:
            child.kill()
            child.join()
        for reader in readers:
            reader.close()


def run_single(function: Callable[..., Any], *arguments: Any, timeout: float = 60.0) -> Any:
    """`function(0, *arguments)` on a world of one, in a fork, so that the test process itself never joins a group."""
    return run_ranks(function, 1, *arguments, timeout=timeout)[0]


def world() -> dist.ProcessGroup:
    """The group of all ranks of the case, inside a rank."""
    assert dist.group.WORLD is not None
    return dist.group.WORLD


def _collect(readers: list[Any], children: list[Any], timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: list[str] = []
    deadline = time.monotonic() + timeout
    waiting = dict(enumerate(readers))
    while waiting:
        ready = connection.wait(list(waiting.values()), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            if not failures:
                failures.append(f"ranks {sorted(waiting)} did not finish within {timeout:.0f} s")
            break
        for rank in [r for r, reader in waiting.items() if reader in ready]:
            try:
                healthy, value = pickle.loads(waiting.pop(rank).recv_bytes())
            except EOFError:
                children[rank].join(_GRACE)
                healthy, value = False, f"rank {rank} died with exit code {children[rank].exitcode}"
            if healthy:
                results[rank] = value
            else:
                failures.append(value)
                deadline = min(deadline, time.monotonic() + _GRACE)
    if failures:
        raise RankError("\n\n".join([failures[0], *(f"(later) {text.strip().splitlines()[-1]}" for text in failures[1:])]))
    return [results[rank] for rank in range(len(readers))]


def _child(writer: Any, listener: socket.socket, rank: int, world_size: int, timeout: float, function: Callable[..., Any],
           arguments: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)  # a forked OpenMP pool would hang
        port = listener.getsockname()[1]
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
                          LOCAL_WORLD_SIZE=str(world_size), GLOO_SOCKET_IFNAME="lo")
        limit = timedelta(seconds=timeout)
        if rank == 0:
            store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=limit,
                                  master_listen_fd=listener.detach())
        else:
            listener.close()  # or the port would outlive rank 0
            store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
        writer.send_bytes(pickle.dumps((True, function(rank, *arguments))))
        dist.barrier()  # nobody leaves while a peer still talks to it
        dist.destroy_process_group()
    except BaseException:
        writer.send_bytes(pickle.dumps((False, f"rank {rank} failed:\n{traceback.format_exc()}")))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
