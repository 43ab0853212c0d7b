"""The process between the front end and the rank: validates, forks the rank, stays with it, and tells how it ended.

It never imports torch, so it starts at once, stays small, and outlives whatever happens to the rank.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ...conf.compose import compose
from ...conf.errors import ConfigError, Problem
from ...conf.schema import Config
from ...core.combine import problems
from ...core.corpora import corpus_problems
from ...core.errors import PeerError, RunError
from ...core.parent_death import die_with_parent
from ...core.pulse import Pulse
from ...data.errors import DataError
from ..environment import Environment, FrontEnd, computes_fp16, read_environment, without_local_rank
from ..folder.folder_lock import FolderLock
from ..folder.occupation import occupied, speaks_without_folder, standing
from ..listener import with_listener
from ..outcome import IN_USE_CODE, PEER_CODE, ExitFile, Outcome, complain, last_step, outcome_of, reason_of
from ..processes import adopt_orphans, end_descendants, started_at
from ..supervisor import require_supervisor
from .hang import HangWatch
from .peer_failure import PeerFailure
from .rank_log import RankLog
from .rank_process import RankFunction, Ties, become_rank, log_file, read_outcome
from .stacks import StackFile
from .vigil import Vigil, watched_signals

ECHOES = (reason_of(PeerError("", do="")),)  # of somebody else's end; of a hang, or a rank that did not come, every watcher knows the cause
FIRST_CAUSE_SECONDS = 3.0  # how long a rank that only lost a peer waits for the peer to say why
HELPERS_SECONDS = 7.0  # for what the rank started to end by itself; tracking needs up to 6 after a kill


def main(arguments: Sequence[str], run: RankFunction) -> int:
    """One rank from command line to exit code.

    Args:
        arguments: overrides, and whatever the front end appended.
        run: what the forked rank does.
    """
    try:
        environment = read_environment(os.environ)
    except Exception as error:  # no rank can be named, so each process speaks for itself
        return complain(error, rank=0)
    try:
        config = validated(without_local_rank(arguments), environment.world_size, fp16=computes_fp16())
        require_supervisor(config.run.restarts, environment)
    except Exception as error:
        return complain(error, rank=environment.rank, speak=environment.rank == 0)
    return watch(config, environment, run)


def validated(overrides: Sequence[str], world_size: int, *, fp16: bool = True) -> Config:
    """The config of a training run that can start.

    Args:
        overrides: as on the command line.
        world_size: ranks that will run it.
        fp16: whether the ranks compute in fp16.

    Raises:
        ConfigError: with every problem of the config, of its sections together, and of its corpora.
        DataError: a corpus is missing, and nothing else is wrong.
    """
    config = compose("train", overrides)
    assert isinstance(config, Config)
    found = problems(config, world_size=world_size, fp16=fp16)
    try:
        found += corpus_problems(config)
    except DataError as error:
        if not found:
            raise
        found.append(Problem("data.train", error.file or "?", f"cannot be used: {error}", error.do))
    if found:
        raise ConfigError(found)
    return config


def watch(config: Config, environment: Environment, run: RankFunction) -> int:
    """Forks the rank and stays with it to the end.

    Returns:
        The rank's true exit code.
    """
    directory = Path(config.run.directory)
    exit_file = ExitFile(directory)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_signals())  # taken one by one by sigtimedwait: no handler, no race
    if environment.front_end is not FrontEnd.python:  # a shell may end before its background job, a launcher may not
        die_with_parent(environment.parent)
    adopt_orphans()
    try:
        with occupied(directory, environment) as lock:
            if lock is not None:
                (directory / "logs").mkdir(exist_ok=True)
                exit_file.clear(began=started_at(os.getpid() if environment.front_end is FrontEnd.python else environment.parent))
                exit_file.reserve()
            outcome = attend(config, environment, run, lock).at(rank=environment.rank, step=last_step(directory))
            outcome = standing(outcome, directory, environment)
            first_cause = record(outcome, exit_file, ours=environment.membership.owns(directory))
            end_descendants(patience_seconds=HELPERS_SECONDS)
            if lock is not None:
                exit_file.release()
    except (RunError, OSError) as error:
        return complain(error, rank=environment.rank)
    if first_cause and outcome.code != 0:
        sys.stderr.write(outcome.line() + "\n")
    return outcome.code


def attend(config: Config, environment: Environment, run: RankFunction, lock: FolderLock | None) -> Outcome:
    """Forks the rank and waits for its end; rank 0's watcher keeps the lock meanwhile."""
    try:
        environment = with_listener(environment)
    except RunError as error:
        return outcome_of(error)
    if lock is not None:
        lock.tell_port(environment.master_port)
    reader, writer = os.pipe()
    lifeline = os.pipe()  # held open by this process alone: the rank sees its end
    peer_failed = PeerFailure(Path(config.run.directory))
    watcher = os.getpid()
    sys.stdout.flush()  # what is buffered here would be written twice
    sys.stderr.flush()
    pulse, stacks = Pulse(), StackFile()
    log = RankLog(log_file(Path(config.run.directory), environment.rank), environment.rank)
    hang = HangWatch(Path(config.run.directory), environment, timeout_seconds=config.run.hang_timeout, pulse=pulse, stacks=stacks)
    rank = os.fork()
    if rank == 0:
        os.close(reader)
        os.close(lifeline[1])
        become_rank(config, environment, run,
                    Ties(watcher=watcher, writer=writer, lifeline=lifeline[0], pulse=pulse, stacks=stacks, log=log))
    os.close(writer)
    os.close(lifeline[0])
    if environment.listener is not None:
        os.close(environment.listener)  # it ends with rank 0
    parent = 0 if environment.front_end is FrontEnd.python else environment.parent
    with nullcontext() if lock is None else lock.kept_fresh():
        ending = Vigil(rank, environment.front_end, parent=parent, grace_seconds=config.run.stop_grace, peer_failed=peer_failed,
                       hang=hang).wait()
    os.close(lifeline[1])
    said = read_outcome(reader)
    os.close(reader)
    log.rest(ours=environment.membership.owns(Path(config.run.directory)))
    return ending.outcome(said)


def record(outcome: Outcome, exit_file: ExitFile, *, ours: bool = True) -> bool:
    """Writes `exit.json`; returns whether this rank is the first cause, the one that speaks.

    Args:
        outcome: of the rank.
        exit_file: of the run folder.
        ours: whether the folder is; else its exit.json tells of another attempt, and nothing is written.
    """
    if not ours:
        return speaks_without_folder(outcome)
    if outcome.code == 0:
        return outcome.rank == 0 and exit_file.write(outcome)
    if outcome.code == IN_USE_CODE:  # a run that must not be continued: it ended as it did
        exit_file.restore()
        return outcome.rank == 0
    if outcome.code == PEER_CODE and outcome.reason in ECHOES:
        deadline = time.monotonic() + FIRST_CAUSE_SECONDS
        while exit_file.read() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        return exit_file.write(outcome)
    except OSError:  # the disk may be what failed; where nobody could speak yet, the line on stderr must still come
        return exit_file.read() is None
