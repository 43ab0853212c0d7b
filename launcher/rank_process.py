"""What the forked child does around the rank's own work: its log, its last word to the watcher, and its exit."""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, TextIO

from ..conf.schema import Config
from ..core.parent_death import die_when_closed, die_with_parent
from ..core.pulse import Pulse
from .environment import Environment
from .outcome import Outcome, outcome_of
from .stacks import StackFile

# Does the rank's work; returns the reason for `exit.json`, raises what has an exit code. It begins with the watched signals blocked, and
# lets them come when its handlers stand: one that came before would end the process.
RankFunction = Callable[[Config, Environment, Pulse], str]

LAST_WORD_CHARACTERS = 8000  # whole in the pipe's 64 KiB: the watcher reads it only after the rank has ended


def log_file(directory: Path, rank: int) -> Path:
    """Where a rank's log lies."""
    return directory / "logs" / f"rank-{rank:05d}.log"


def become_rank(config: Config, environment: Environment, run: RankFunction, pulse: Pulse, *, writer: int, watcher: int,
                lifeline: int, stacks: StackFile) -> NoReturn:
    """Runs the rank in this freshly forked process and ends the process.

    Args:
        config: resolved and checked.
        environment: this rank's place.
        run: the rank's work.
        pulse: where it leaves signs of life.
        writer: pipe to the watcher.
        watcher: its process id.
        lifeline: end of a pipe whose other end only the watcher holds.
        stacks: where it leaves its stacks when it is asked for them.
    """
    stacks.install()
    die_with_parent(watcher)
    die_when_closed(lifeline)
    outcome = Outcome(code=1, reason="error")
    path = log_file(Path(config.run.directory), environment.rank)
    try:
        log = open_log(path, environment.rank)
        os.environ.update(environment.variables())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal tells every process; the watcher makes a SIGTERM of it
        try:
            outcome = Outcome(code=0, reason=run(config, environment, pulse))
        except BaseException:
            log.write(traceback.format_exc())
            log.flush()
            raise
    except BaseException as error:  # the one place where everything ends: as an exit code and one line
        outcome = outcome_of(error, log=path)
    finally:
        send(outcome, writer)
        flush_output()
        os._exit(outcome.code)  # atexit handlers and destructors of a broken run may hang for ever


def open_log(path: Path, rank: int) -> TextIO:
    """The rank's log, appended to; every rank but 0 prints into it instead of on the terminal."""
    log = path.open("a", buffering=1)
    log.write(f"--- rank {rank}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
    faulthandler.enable(log)  # a crash in native code leaves its Python stack here
    if rank > 0:
        flush_output()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return log


def flush_output() -> None:
    """Writes out what is buffered; a closed terminal is no reason to fail now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue


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
