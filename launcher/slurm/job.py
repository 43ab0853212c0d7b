"""What the batch script becomes, on the first node: starts the ranks by srun, and decides what follows when they have ended."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from ...conf.compose import compose
from ...conf.schema import Config
from ..environment import computes_fp16
from ..local import Attempt
from ..outcome import IN_USE_CODE, complain
from ..supervisor import newest_step, supervise
from ..watch.vigil import watched_signals
from ..watch.watcher import validated
from .allocation import Allocation, read_allocation
from .decide import Decision, Ended, decide, seen_by_slurm
from .history import ENDED, STARTED, History, futile_restarts
from .nodes import bad_nodes, exclude, host_names, node_of, remaining
from .step import Step, srun_words
from .tools import SlurmError, call, show_job

ASK_SECONDS = 30.0  # between questions to slurmctld whether this start is still the job's own
OLD_SECONDS, OLD_LOOK_SECONDS = 300.0, 5.0  # for an older start of this job to end, whose node lost its slurmd


def main() -> int:
    """One start of a job, from the batch script to its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals() | {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # the script's shell ignored them; blocked, they wait for us
    overrides = sys.argv[1:]
    try:
        allocation = read_allocation(os.environ)
        cluster = compose("train", overrides).cluster
        config = validated(overrides, allocation.nodes * cluster.ranks_per_node, fp16=computes_fp16())
        return run_job(config, overrides, allocation)
    except Exception as error:
        return complain(error, rank=0)


def run_job(config: Config, overrides: Sequence[str], allocation: Allocation) -> int:
    """Trains, and puts the job back into the queue where that helps.

    Args:
        config: of the run.
        overrides: that made it.
        allocation: the nodes.
    """
    directory = Path(config.run.directory)
    history, step = History(directory), newest_step(directory)
    history.add(STARTED, {"job": allocation.job, "restart": allocation.restart, "nodes": allocation.node_list, "step": step})
    say(f"start {allocation.restart} of job {allocation.job} on {allocation.node_list}, from step {step}")
    ended = train(config, overrides, allocation)
    decision = judge(ended, config, allocation, history, before=step)
    after = newest_step(directory)
    history.add(ENDED, {"job": allocation.job, "restart": allocation.restart, "code": ended.code, "step": after, "why": decision.why,
                        "requeue": decision.requeue, "rank": ended.cause.get("rank"), "what": ended.cause.get("what") or "",
                        "node": guilty_node(ended, config, allocation)})
    say(f"exit code {ended.code} at step {after}; {'requeued' if decision.requeue else 'not requeued'}: {decision.why}")
    if decision.requeue:
        requeue(allocation.job, after)
        avoid(allocation.job, bad_nodes(history.rows()))
    return ended.code


def train(config: Config, overrides: Sequence[str], allocation: Allocation) -> Attempt:
    """All ranks, from the first srun to the last: again after a crash as `run.restarts` says, and where an older start still ends."""
    cluster, attempts = config.cluster, list[Attempt]()
    words = srun_words(overrides, nodes=allocation.nodes, ranks_per_node=cluster.ranks_per_node, cpus_per_rank=cluster.cpus_per_rank)

    def once() -> Attempt:
        variables = {**os.environ, "HEXAREME_ATTEMPT": token_hex(8)}
        deadline = time.monotonic() + (OLD_SECONDS if allocation.restart else 0.0)
        superseded = Superseded(allocation)
        while True:
            ended = Step(words, variables, Path(config.run.directory), grace_seconds=config.run.stop_grace, superseded=superseded).run()
            if ended.code != IN_USE_CODE or ended.asked is not None or time.monotonic() > deadline:
                attempts.append(ended)
                return ended
            say("an older start of this run has not ended yet: waiting")
            time.sleep(OLD_LOOK_SECONDS)

    code = supervise(once, directory=Path(config.run.directory), restarts=config.run.restarts)
    return replace(attempts[-1], code=code)


class Superseded:
    """Whether Slurm has started a job anew, as it does when it hears no more of a node whose ranks live on. Asked again and again.

    Args:
        allocation: of this start.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        """True where another start exists; False where Slurm does not answer."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return False
        self._asked = time.monotonic()
        return ask(self._allocation.job)[1] > self._allocation.restart


def ask(job: str) -> tuple[bool, int]:
    """Whether Slurm is ending a job, and how often it was requeued; as if neither where Slurm does not answer."""
    try:
        return seen_by_slurm(show_job(job))
    except SlurmError:
        return False, 0


def judge(ended: Attempt, config: Config, allocation: Allocation, history: History, *, before: int) -> Decision:
    """What follows from the end of the ranks.

    Args:
        ended: the last attempt.
        config: of the run.
        allocation: of this start.
        history: of the run.
        before: newest step when this start began.
    """
    by_slurm, restarts = ask(allocation.job)
    seen = Ended(code=ended.code, asked=ended.asked is not None, futile=futile_restarts(history.rows()), by_slurm=by_slurm,
                 progress=newest_step(Path(config.run.directory)) > before, restarts=restarts)
    return decide(seen, restart=allocation.restart, allowed=config.cluster.requeue)


def requeue(job: str, step: int) -> None:
    """Puts this job back into the queue, which ends this process soon. Where that fails, the run can still be submitted again.

    Args:
        job: its id.
        step: of the newest checkpoint.
    """
    try:
        call(["scontrol", "requeue", job])
    except SlurmError as error:
        say(f"WARNING: the job could not be requeued: {error} (do: submit the run again; it goes on from step {step})")


def guilty_node(ended: Attempt, config: Config, allocation: Allocation) -> str:
    """Where the first cause was; empty where nobody knows."""
    try:
        return node_of(ended.cause.get("rank"), host_names(allocation.node_list), config.cluster.ranks_per_node)
    except SlurmError:
        return ""


def avoid(job: str, bad: Mapping[str, str]) -> None:
    """Keeps a job that stands in the queue again off nodes that failed, as long as enough others are left.

    Args:
        job: its id.
        bad: node -> why.
    """
    if not bad:
        return
    try:
        shown = show_job(job)
        before = [] if shown.get("ExcNodeList", "(null)") == "(null)" else host_names(shown["ExcNodeList"])
        names = sorted({*before, *bad})
        needed = int(shown.get("NumNodes", "1").partition("-")[0])
        if (left := remaining(shown["Partition"], names)) < needed:
            say(f"WARNING: {', '.join(bad)} failed, but without {'them' if len(bad) > 1 else 'it'} only {left} nodes are left for {needed}")
            return
        exclude(job, names)
        for node, why in bad.items():
            say(f"node {node} is avoided from now on: {why}")
    except (SlurmError, ValueError, KeyError) as error:
        say(f"WARNING: {', '.join(bad)} could not be excluded: {error}")


def say(what: str) -> None:
    """One line in the job's log."""
    sys.stderr.write(f"hexareme: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
