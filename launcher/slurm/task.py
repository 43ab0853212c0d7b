"""One task of the step that a job starts: the watcher of a rank."""

import signal
import sys


def main() -> int:
    """As `launcher/train.py`, but for two things that srun would misread.

    A signal that asks to stop may come before the watcher can take it: it waits from the first line on. And a rank that was preempted
    ends with 0: it has saved and is no failure for which srun should kill the others in the middle of their own ends; `exit.json` has 75.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

    from ...core.errors import Preempted
    from ..rank import run_rank
    from ..watch.watcher import main as watch

    code = watch(sys.argv[1:], run_rank)
    return 0 if code == Preempted.exit_code else code


if __name__ == "__main__":
    sys.exit(main())
