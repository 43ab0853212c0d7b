"""`prepare` in a process of its own: what it took of time and memory, workers included."""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """Of one `prepare`.

    Args:
        cpu: seconds of all its processes.
        wall: seconds.
        memory: bytes, the most that the parent and its workers had resident together.
        largest: bytes, the peak of the largest of them.
    """

    cpu: float
    wall: float
    memory: int
    largest: int


def run_prepare(text: Path, output: Path, tokenizer: Path, *, workers: int) -> Cost:
    """Makes a corpus with an existing tokenizer, and measures that.

    Args:
        text: JSON lines.
        output: the corpus folder.
        tokenizer: folder.
        workers: processes.
    """
    words = [sys.executable, "-m", __name__, str(text), str(output), str(tokenizer), str(workers)]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    together = 0
    peaks: dict[int, int] = {}
    while process.poll() is None:
        found = {pid: _memory(pid) for pid in (process.pid, *_children(process.pid))}
        together = max(together, sum(resident for resident, _ in found.values()))
        # Until it is replaced by the program, a new process shows what its parent has: the last value counts.
        peaks |= {pid: peak for pid, (_, peak) in found.items() if peak}
        time.sleep(_LOOK_SECONDS)
    wall = time.perf_counter() - began
    assert process.stdout
    answer = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"prepare ended with code {process.returncode}")
    return Cost(json.loads(answer)["cpu"], wall, together, max(peaks.values(), default=0))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has just ended
        return []


def _memory(pid: int) -> tuple[int, int]:
    """Resident now, and at its peak. (What getrusage calls a peak begins with the memory of whoever started the process.)"""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0, 0
    return tuple(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def _main(text: str, output: str, tokenizer: str, workers: str) -> None:
    from ...data.prepare.prepare import prepare
    from ...data.prepare.recipe import Recipe

    prepare([text], output, Recipe(tokenizer_kind="huggingface", tokenizer_path=tokenizer, held_out=0.0), workers=int(workers))
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    print(json.dumps({"cpu": cpu}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
