"""`python -m hexareme.core.tracking.follower <run directory>`: follows `metrics.jsonl` and feeds W&B and TensorBoard.

Started by `Tracker`, which writes the settings to the standard input and holds it open while it lives. wandb and tensorboard are imported
only in this process.
"""

import atexit
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from .lifeline import Lifeline, kill_descendants
from .notices import Notices
from .settings import FollowerSettings
from .sink import Feed, Sink
from .tail import Tail

POLL_SECONDS = 1.0
NICENESS = 10  # on a machine without a spare core, training goes first


def main() -> int:
    """Follow until the owner finishes or dies."""
    directory = Path(sys.argv[1])
    os.nice(NICENESS)
    # A scheduler signals every process of the job; what the ranks do until they end is still to be recorded. The lifeline ends us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(0, "rb", buffering=0, closefd=False) as owner:
        line = owner.readline()
    if not line.endswith(b"\n"):
        return 1  # the owner died while it started us
    settings = FollowerSettings.from_line(line)
    notices = _redirect_output(directory)
    scratch = _stay_inside(directory)
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)  # before the libraries register theirs, so it runs after them
    lifeline = Lifeline(0, on_deadline=lambda: _give_up(directory, scratch, notices))
    feeds = [Feed(sink, Tail(directory / "metrics.jsonl")) for sink in _sinks(directory, settings, notices)]
    return _follow(feeds, lifeline, notices)


def _give_up(directory: Path, scratch: str, notices: Notices) -> None:
    """The deadline: say so, and leave no process and no file of the libraries behind."""
    notices.warn(f"the server did not take everything in time; {directory / 'metrics.jsonl'} has it, and a resume of the run sends it. "
                 f"What has left this process: wandb sync {directory / 'wandb'}/*run-*")
    kill_descendants(os.getpid())
    shutil.rmtree(scratch, ignore_errors=True)


def _follow(feeds: list[Feed], lifeline: Lifeline, notices: Notices) -> int:
    code = 0
    while feeds:
        ending = lifeline.ending.wait(POLL_SECONDS)  # known before the last look, so that the last look sees everything
        for feed in list(feeds):
            try:
                feed.drain(seconds_left=lifeline.seconds_left if ending else None)
                if ending:
                    feed.close(exit_code=lifeline.exit_code)
            except Exception as error:  # whatever a tracking library does, the other one is still fed
                code = 1
                feeds.remove(feed)
                traceback.print_exc()
                notices.warn(f"{f'{type(error).__name__}: {error}'.rstrip(': ')}; metrics.jsonl has everything")
        if ending:
            break
    return code


def _sinks(directory: Path, settings: FollowerSettings, notices: Notices) -> list[Sink]:
    sinks: list[Sink] = []
    if settings.tensorboard and _installed("tensorboard", "tracking.tensorboard=false", notices):
        from .tensorboard_sink import TensorboardSink
        sinks.append(TensorboardSink(directory / "tensorboard"))
    if settings.wandb != "disabled" and _installed("wandb", "tracking.wandb=disabled", notices):
        from .wandb_sink import WandbSink
        sinks.append(WandbSink(directory, settings, notices))
    return sinks


def _installed(package: str, otherwise: str, notices: Notices) -> bool:
    specification = importlib.util.find_spec(package)
    if specification is not None and specification.origin is not None:
        return True
    notices.warn(f"{package} is not installed: pip install 'hexareme[{package}]', or {otherwise}")
    return False


def _redirect_output(directory: Path) -> Notices:
    """Whatever the libraries print goes to `wandb/follower.log`; only our own notices reach the person."""
    folder = directory / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    person = open(os.dup(2), "w")  # noqa: SIM115 (lives as long as the process)
    log = open(folder / "follower.log", "a", buffering=1)  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    return Notices(person, log)


def _stay_inside(directory: Path) -> str:
    """Keep what wandb writes inside the run's folder, and its crash reports at home; it reads these from the environment only.

    Returns:
        A scratch folder of our own. Not in the run's folder: wandb puts sockets there, whose paths must be short.
    """
    scratch = tempfile.tempdir = tempfile.mkdtemp(prefix="hexareme-")
    os.environ |= {"WANDB_DIR": str(directory), "WANDB_CACHE_DIR": str(directory / "wandb/cache"), "TMPDIR": scratch,
                   "WANDB_DATA_DIR": str(directory / "wandb/data"), "WANDB_ERROR_REPORTING": "false"}
    return scratch


if __name__ == "__main__":
    sys.exit(main())
