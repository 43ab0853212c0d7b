"""What a Python stack waits for: another rank, a device, the data loader, or nothing. Pure: reads source lines, imports no torch."""

import linecache
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_COLLECTIVES = str(ROOT / "parallel" / "collectives.py")
_LOADER = str(ROOT / "data" / "samples" / "loader.py")

# Frames that only carry a call on: a wait is judged by the frame below them.
_CARRIERS = ("torch/_ops.py", "torch/_library/autograd.py", "torch/distributed/c10d_logger.py", "torch/utils/_contextlib.py",
             "torch/autograd/function.py", "deepspeed/utils/timer.py", "deepspeed/utils/nvtx.py")
_FOREIGN_WAITS = ("torch/distributed/", "deepspeed/comm/")
# The caller's own line, where what waits is written in C++: a started collective, a functional one, the meeting's store.
_WAITING_LINE = re.compile(r"\.wait\(|_c10d_functional\.|\bstore\.(wait|get|check|set|add)\(|\bdist\.\w+\(")
# A GPU's host goes on until it needs a number; then it waits for every kernel before, the collectives' among them.
_DEVICE_LINE = re.compile(r"\.item\(\)|\.tolist\(\)|\.cpu\(\)|synchronize\(|\.to\(\"cpu\"\)|\bfloat\(|\bint\(|\bbool\(")


class Wait(StrEnum):
    """For what."""

    none = "none"
    collective = "collective"
    device = "device"
    loader = "loader"


@dataclass(frozen=True)
class Frame:
    """One line of a stack.

    Args:
        file: absolute path.
        line: number in it.
        function: its name.
    """

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        """The source line; empty where the file is not there."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def ours(self) -> bool:
        """Whether it is this package's own code."""
        return self.file.startswith(f"{ROOT}/") and "site-packages" not in self.file

    def __str__(self) -> str:
        name = str(Path(self.file).relative_to(ROOT)) if self.ours else "/".join(Path(self.file).parts[-3:])
        return f"{name}:{self.line} in {self.function}"


@lru_cache(maxsize=1024)
def carries(file: str) -> bool:
    """Whether a frame of this file only carries a call on."""
    return file.endswith(_CARRIERS)


def wait_of(frames: Sequence[Frame], *, accelerator: bool) -> Wait:
    """What a thread waits for, if anything.

    Args:
        frames: innermost first.
        accelerator: whether tensors lie on one; on a processor a line that reads a number only computes.
    """
    judged = next((frame for frame in frames if not carries(frame.file)), None)
    if judged is None:
        return Wait.none
    found = wait_at(judged.file, judged.line, accelerator=accelerator)
    if found is Wait.none and any(frame.file == _LOADER for frame in frames) and judged.file.endswith("threading.py"):
        return Wait.loader  # for a thread of the loader
    return found


@lru_cache(maxsize=4096)
def wait_at(file: str, line: int, *, accelerator: bool) -> Wait:
    """What a thread waits for whose innermost frame (carriers left out) is here.

    Args:
        file: absolute path.
        line: number in it.
        accelerator: as in `wait_of`.
    """
    if file == _COLLECTIVES or any(part in file for part in _FOREIGN_WAITS):
        return Wait.collective
    text = linecache.getline(file, line)
    if _WAITING_LINE.search(text):
        return Wait.collective
    return Wait.device if accelerator and _DEVICE_LINE.search(text) else Wait.none


def operation(frames: Sequence[Frame]) -> str:
    """The collective's name, as `all_reduce`; of a point-to-point exchange or an unknown one the innermost function's."""
    named = [frame.function for frame in frames if any(part in frame.file for part in _FOREIGN_WAITS) or frame.file == _COLLECTIVES]
    for name in named:
        if name not in ("wrapper", "wait", "wait_tensor", "log_wrapper"):
            return name
    return named[0] if named else "wait"


def site(frames: Sequence[Frame]) -> Frame | None:
    """Our own line at which a thread stands: the innermost outside of the module of collectives; else the innermost of all."""
    ours = [frame for frame in frames if frame.ours and frame.file != _COLLECTIVES]
    return next(iter(ours or frames), None)
