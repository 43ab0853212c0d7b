"""One machine's facts and speed as one line of JSON: `python -m hexareme.launcher.doctor.survey <request>`, started on each host."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .facts import gather

HEAD = "hexareme-doctor "  # before the line, among whatever a login shell prints
WRITTEN_BYTES = 256 << 20
MOST_RANKS = 8
MEASURE_SECONDS = 40.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of each machine.

    Args:
        directory: of the run to come.
        port: that its ranks would meet at; 0: any.
        token: file that the asking machine has written beside the run folder; "": none.
        speed: measure as well.
        ranks: on each machine.
    """

    directory: str
    port: int
    token: str
    speed: bool
    ranks: int


def survey(request: Request) -> dict[str, Any]:
    """The facts of this machine.

    Returns:
        Those of `facts.gather`, `token_seen`, and `speed`: rates in bytes or operations a second, or `error`.
    """
    found = gather(Path(request.directory), port=request.port)
    found["token_seen"] = not request.token or Path(request.token).exists()
    found["speed"] = measure(request, Path(found["disk"]["exists"])) if request.speed else {}
    return found


def measure(request: Request, disk: Path) -> dict[str, Any]:
    """The machine's rates: those of its slowest rank."""
    from ...core.forked_ranks import RankError, run_ranks
    from ...core.machine_speed import measure_speed
    from ..environment import on_cpu

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ranks = min(request.ranks, MOST_RANKS)
    try:
        rates = run_ranks(measure_speed, ranks, timeout=MEASURE_SECONDS, quiet=True, backend="gloo" if on_cpu() else "nccl")
    except RankError as error:
        return {"error": str(error.cause)[:300]}
    return {"ranks": ranks} | {name: min(rate[name] for rate in rates) for name in rates[0]} | {"write_bytes": write_rate(disk)}


def write_rate(folder: Path) -> float:
    """Bytes a second that reach the disk: one file, written and synced, gone afterwards; 0 where it cannot be written."""
    path, block = folder / f".doctor-{os.uname().nodename}-{os.getpid()}", os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with path.open("xb", buffering=0) as file:
            for _ in range(WRITTEN_BYTES // len(block)):
                file.write(block)
            os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - began)
    except OSError:
        return 0.0
    finally:
        path.unlink(missing_ok=True)


def command(request: Request, python: str) -> list[str]:
    """The words that start a survey."""
    return [python, "-P", "-m", __name__, json.dumps(asdict(request))]


def main(words: list[str]) -> int:
    """Prints the line."""
    print(HEAD + json.dumps(survey(Request(**json.loads(words[0])))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
