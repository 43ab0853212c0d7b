"""Runs whose processes are the real ones, forked from a warm interpreter: `hexareme train` without the seconds of its imports.

The front end, its watchers and their ranks are real processes with their real code, signals, pipes and sockets; only `exec` is left out.
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hexareme.core.checkpoint.folder import step_folders
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.launcher.local import start_local
from hexareme.launcher.processes import descendants
from hexareme.launcher.rank import run_rank
from hexareme.launcher.watch.watcher import main as watch

from tests import deepspeed_ready  # noqa: F401  (everything forked from here shares its imports)
from tests.end_to_end.user import FOREIGN, MARK
from tests.launcher.processes import default_signals, wait_until

SLACK = 3.0  # deadlines of the matrix hold on an idle machine; tests allow three times
GONE_SECONDS = 10.0  # after the front end's end

# The matrix's tiny model: 2 layers, hidden 64, 2 heads, 512 tokens, 64 long, dropout.
TINY = ("experiment=debug", "data.validation=none", "model.num_layers=2", "model.hidden_size=64", "model.ffn_hidden_size=128",
        "model.num_heads=2", "model.num_kv_heads=2", "model.vocab_size=512", "model.sequence_length=64", "model.dropout=0.1",
        "train.steps=40", "checkpoint.interval=10", "checkpoint.keep=2", "batch.global_size=4", "batch.micro_size=1", "data.audit=true",
        "schedule.warmup_steps=2", "tracking.console_interval=1", "parallel.sequence_parallel=false")


def fork(action: Callable[[], int], output: Path, **variables: str) -> int:
    """A child in a session of its own that runs `action` and exits with what it returns; both its streams go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        leave(lambda: _in_session(action, output, variables))
    return child


def _in_session(action: Callable[[], int], output: Path, variables: Mapping[str, str]) -> int:
    os.setsid()
    default_signals()
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(variables, OMP_NUM_THREADS="1")
    return action()


def fork_watcher(overrides: Sequence[str], variables: Mapping[str, str]) -> int:
    """As `launcher.local.start_program`, without a fresh interpreter."""

    def become() -> int:
        os.environ.clear()
        os.environ.update(variables)
        return watch(list(overrides), run_rank)

    child = os.fork()
    if not child:
        leave(become)
    return child


def leave(action: Callable[[], int]) -> NoReturn:
    """Ends this forked process with what the action returns, and never with pytest's own exit."""
    code = 1
    try:
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Start:
    """One start of a run: a front end, its watchers, their ranks.

    Args:
        run: the run.
        ranks: how many.
        overrides: beside the run's own.
        prepare: runs in the front end before anything else; what it changes, all ranks inherit (a mutant, a fault at a named place).
    """

    def __init__(self, run: "Run", ranks: int, overrides: Sequence[str], prepare: Callable[[], None] = lambda: None) -> None:
        self.run, self.ranks, self.begun = run, ranks, time.monotonic()
        everything = [*run.overrides, *overrides, f"cluster.ranks_per_node={ranks}"]

        def front_end() -> int:
            prepare()
            return run.start_function(everything, ranks=ranks, directory=run.directory, start=fork_watcher)

        self.output = run.folder / f"output-{len(run.starts):03d}.txt"
        self.front_end = fork(front_end, self.output, **{MARK: run.mark})
        self.code: int | None = None
        self._known: set[int] = set()

    @property
    def watchers(self) -> list[int]:
        """The processes that watch a rank, in the order of ranks."""
        return children(self.front_end)[: self.ranks]

    def rank(self, number: int, *, seconds: float = 60.0) -> int:
        """Process id of a rank, as soon as it lives."""
        wait_until(lambda: len(self.watchers) == self.ranks and children(self.watchers[number]), seconds)
        return children(self.watchers[number])[0]

    def await_step(self, step: int, *, seconds: float = 90.0) -> None:
        """Until `metrics.jsonl` has a step; fails where the run ends before."""
        wait_until(lambda: self.ended() or self.run.last_step() >= step, seconds)
        assert self.run.last_step() >= step, f"the run ended at step {self.run.last_step()}:\n{self.text()}"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to every process of this start, front end first."""
        for process in [self.front_end, *descendants(self.front_end)]:
            send(process, number)

    def ended(self) -> bool:
        """Whether the front end has ended; its exit code is then in `code`."""
        if self.code is None:
            self._known |= set(descendants(self.front_end))
            process, status = os.waitpid(self.front_end, os.WNOHANG)
            if process:
                wanted = os.waitstatus_to_exitcode(status)
                self.code = wanted if wanted >= 0 else 128 - wanted
        return self.code is not None

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code."""
        wait_until(self.ended, seconds)
        assert self.code is not None
        return self.code

    def finish(self, seconds: float = 120.0) -> int:
        """The exit code; nothing of this start lives 10 s (times three) after it."""
        code = self.wait(seconds)
        wait_until(lambda: not [process for process in self._known if living(process)], SLACK * GONE_SECONDS)
        return code

    def text(self) -> str:
        """What it printed."""
        return self.output.read_text() if self.output.exists() else ""

    def error_lines(self) -> list[str]:
        """The lines that say why it failed."""
        return [line for line in self.text().splitlines() if line.startswith("ERROR ")]


class Run:
    """A run folder and its starts.

    Args:
        folder: of this test; the run is in `run` below it.
        overrides: of every start, after those of the tiny model.
        start_function: `start_local`, or what stands above it.
    """

    def __init__(self, folder: Path, corpus: str, *overrides: str, start_function: Callable[..., int] = start_local) -> None:
        self.folder, self.directory, self.mark = folder, folder / "run", str(folder)
        self.overrides = [*TINY, f"data.train={corpus}", f"run.directory={self.directory}", *overrides]
        self.start_function = start_function
        self.starts: list[Start] = []

    def start(self, *overrides: str, ranks: int = 2, prepare: Callable[[], None] = lambda: None) -> Start:
        """Starts it; goes on where the last start ended."""
        self.starts.append(Start(self, ranks, overrides, prepare))
        return self.starts[-1]

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of `metrics.jsonl`."""
        path = self.directory / "metrics.jsonl"
        content = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]

    def last_step(self) -> int:
        """Newest step that was recorded."""
        return max((row["step"] for row in self.metrics()), default=0)

    def losses(self) -> dict[int, tuple[str, str]]:
        """Step -> loss and gradient norm to the last bit."""
        rows = [row for row in self.metrics() if "loss" in row]
        found = {row["step"]: (exact(row["loss"]), exact(row["grad_norm"])) for row in rows}
        assert len(found) == len(rows), "a step stands twice"
        return found

    def samples(self) -> dict[int, list[int]]:
        """Step -> the samples it was made of."""
        found: dict[int, list[int]] = {}
        for line in (self.directory / "samples.jsonl").read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["step"], []).append(row["sample"])
        return {step: sorted(samples) for step, samples in found.items()}

    def state(self) -> dict[tuple[str, str], str]:
        """SHA-256 of every tensor of the newest checkpoint, whatever layout wrote it; each block is verified on the way."""
        return hashes(step_folders(self.directory / "checkpoints")[0])

    def course(self) -> tuple[dict, dict, dict]:
        """All that must be equal for two runs to be the same, bit for bit."""
        return self.losses(), self.samples(), self.state()

    def exit_json(self) -> dict[str, Any]:
        """How it ended."""
        return json.loads((self.directory / "exit.json").read_text())

    def close(self) -> None:
        """Nothing of this run lives on."""
        for start in self.starts:
            for process in [*start._known, *descendants(start.front_end), start.front_end]:
                if living(process) and belongs(process, self.mark):
                    send(process, signal.SIGKILL)
            if start.code is None:
                start.wait()


def exact(number: float | None) -> str:
    """A number to the last bit; what is not finite stands as null."""
    return "not finite" if number is None else float(number).hex()


def hashes(folder: Path) -> dict[tuple[str, str], str]:
    """SHA-256 of every tensor of a checkpoint."""
    checkpoint = Checkpoint.open(folder)
    return {key: hashlib.sha256(checkpoint.read_tensor(*key).numpy().tobytes()).hexdigest() for key in checkpoint.tensors}


def children(process: int) -> list[int]:
    """Direct children, oldest first."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def living(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def belongs(process: int, mark: str) -> bool:
    """Whether a process id still means a process of ours: ids are used again."""
    try:
        content = Path(f"/proc/{process}/cmdline").read_bytes() + Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False
    return mark.encode() in content or b"pytest" in content or b"hexareme" in content


def send(process: int, number: int) -> None:
    """A signal, if the process still is."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
