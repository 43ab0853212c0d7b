"""Started as a file, like launcher/train.py, but the rank does what BEHAVIOUR_<rank> or BEHAVIOUR says: real processes, real signals."""

import os
import signal
import sys
import time
from pathlib import Path

from hexareme.conf.errors import ConfigError, Problem
from hexareme.conf.schema import Config
from hexareme.core.errors import FolderInUseError, NonFiniteError, PeerError, Preempted, StorageError
from hexareme.core.pulse import Pulse
from hexareme.data.errors import DataError
from hexareme.launcher.environment import Environment
from hexareme.launcher.folder.membership import seen_token
from hexareme.launcher.watch.vigil import watched_signals
from hexareme.launcher.watch.watcher import main

RAISES = {
    "storage": StorageError("the disk is full", do="make room", file="/full"),
    "non_finite": NonFiniteError("loss is nan", do="lower optimizer.learning_rate"),
    "peer": PeerError("rank 1 was lost", do="see its log"),
    "in_use": FolderInUseError("another run is here", do="choose another run.name"),
    "data": DataError("a file is cut short", do="copy it again", file="train.bin"),
    "config": ConfigError([Problem("optimizer.name", "lion", "cannot run here", "take adamw")]),
    "bug": TypeError("two\nlines"),
    "full": OSError(28, "No space left on device", "/full/file"),
}
KILLS = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV}


def behave(config: Config, environment: Environment, pulse: Pulse) -> str:
    directory = Path(config.run.directory)
    while environment.rank > 0 and not environment.membership.owns(directory):
        time.sleep(0.01)
    environment.membership.admit(seen_token(directory))
    what = os.environ.get(f"BEHAVIOUR_{environment.rank}", os.environ.get("BEHAVIOUR", "completed"))
    stopped = []
    if what == "saves":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda *caught: stopped.append(caught[0]))
    if what == "stubborn":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched_signals())
    print(f"ready {environment.rank}/{environment.world_size} {os.getpid()} {environment.front_end}", flush=True)
    time.sleep(float(os.environ.get(f"DELAY_{environment.rank}", "0")))
    if what in RAISES:
        raise RAISES[what]
    if what in KILLS:
        os.kill(os.getpid(), KILLS[what])
    if what == "exit":
        os._exit(3)
    if what in ("saves", "sleep", "stubborn"):
        deadline = time.monotonic() + 60
        while not stopped and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(float(os.environ.get("SAVE_SECONDS", "0")))
        raise Preempted(f"stopped by signal {stopped}", do="start it again")
    if what == "forks" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    return "completed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], behave))
