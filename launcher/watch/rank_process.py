"""What the forked child does around the rank's own work: its log, its last word to the watcher, and its exit."""

import json
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from ...conf.schema import Config
from ...core.parent_death import die_when_closed, die_with_parent
from ...core.pulse import Pulse
from ..environment import Environment
from ..outcome import Outcome, outcome_of
from .rank_log import RankLog, flush_output
from .stacks import StackFile

# Does the rank's work; returns the reason for `exit.json`, raises what has an exit code. It begins with the watched signals blocked, and
# lets them come when its handlers stand: one that came before would end the process.
RankFunction = Callable[[Config, Environment, Pulse], str]

LAST_WORD_CHARACTERS = 8000  # whole in the pipe's 64 KiB: the watcher reads it only after the rank has ended


def log_file(directory: Path, rank: int) -> Path:
    """Where a rank's log lies."""
    return directory / "logs" / f"rank-{rank:05d}.log"


@dataclass(frozen=True, kw_only=True)
class Ties:
    """What binds a rank to the watcher that forks it.

    Args:
        watcher: its process id.
        writer: pipe to it.
        lifeline: end of a pipe whose other end only the watcher holds.
        pulse: where the rank leaves signs of life.
        stacks: where it leaves its stacks when it is asked for them.
        log: where it prints.
    """

    watcher: int
    writer: int
    lifeline: int
    pulse: Pulse
    stacks: StackFile
    log: RankLog


def become_rank(config: Config, environment: Environment, run: RankFunction, ties: Ties) -> NoReturn:
    """Runs the rank in this freshly forked process and ends the process.

    Args:
        config: resolved and checked.
        environment: this rank's place.
        run: the rank's work.
        ties: to the watcher.
    """
    ties.stacks.install()
    die_with_parent(ties.watcher)
    die_when_closed(ties.lifeline)
    outcome = Outcome(code=1, reason="error")
    try:
        log = ties.log.open()
        environment.membership.when_admitted(ties.log.settle)
        os.environ.update(environment.variables())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal tells every process; the watcher makes a SIGTERM of it
        try:
            outcome = Outcome(code=0, reason=run(config, environment, ties.pulse))
        except BaseException:
            with suppress(OSError):  # a full disk may be what ends the run: that is what must be said, not that the log is cut short
                log.write(traceback.format_exc())
                log.flush()
            raise
    except BaseException as error:  # the one place where everything ends: as an exit code and one line
        outcome = outcome_of(error, log=ties.log.path)
    finally:
        send(outcome, ties.writer)
        flush_output()
        os._exit(outcome.code)  # atexit handlers and destructors of a broken run may hang for ever


def send(outcome: Outcome, writer: int) -> None:
    """The rank's last word."""
    fields = asdict(outcome) | {"what": outcome.what[:LAST_WORD_CHARACTERS], "do": outcome.do[:LAST_WORD_CHARACTERS]}
    os.write(writer, json.dumps(fields).encode())


def read_outcome(reader: int) -> Outcome | None:
    """What the rank said before it ended; None where it was killed before it could. Never waits: the rank has ended."""
    os.set_blocking(reader, False)  # a stray child of the rank may still hold the other end open
    try:
        content = os.read(reader, 1 << 16)
    except BlockingIOError:
        return None
    return Outcome(**json.loads(content)) if content else None
