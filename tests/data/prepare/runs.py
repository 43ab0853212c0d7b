"""`prepare` in a process of its own, to be killed; and the texts for it."""

import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hexareme.data.clean.settings import CleanSettings, DuplicateSettings, NormalizeSettings
from hexareme.data.prepare.prepare import NoProgress, Prepared, Recipe, prepare

CLEAN = CleanSettings(normalize=NormalizeSettings(enabled=True), duplicates=DuplicateSettings(exact=True, near=True))


class Told(NoProgress):
    """Remembers what it is told.

    Args:
        pause: seconds to wait after each result, so that a small corpus takes long enough to be killed in.
    """

    def __init__(self, pause: float = 0) -> None:
        self.notes: list[str] = []
        self.phases: list[tuple[str, int, int]] = []
        self.advanced: dict[str, int] = {}
        self.results: Counter[str] = Counter()
        self._pause = pause

    def phase(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
        self.phases.append((name, total_bytes, done_bytes))

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        name = self.phases[-1][0]
        self.advanced[name] = self.advanced.get(name, 0) + input_bytes
        self.results[name] += 1
        time.sleep(self._pause)

    def note(self, line: str) -> None:
        self.notes.append(line)


class Tells(Told):
    """Says it to a parent process as well."""

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        print("result", flush=True)
        super().advance(input_bytes, documents, text_bytes)


@dataclass
class Run:
    """One call of `prepare`, as often as wanted."""

    inputs: list[Any]
    output: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    clean: bool = False
    workers: int = 1
    pause: float = 0.0

    def here(self, **settings: Any) -> Prepared:
        """In this process."""
        recipe = Recipe(**self.recipe, clean=CLEAN if self.clean else CleanSettings())
        return prepare(self.inputs, self.output, recipe, workers=self.workers, **{"journal_seconds": 0.0, **settings})

    def start(self) -> subprocess.Popen[str]:
        """In a new process, which says "begun" when it begins, "result" for each and "done" at the end."""
        command = [sys.executable, "-m", type(self).__module__, json.dumps({**asdict(self), "output": str(self.output)})]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def killed_after(self, results: int, seconds: float) -> bool:
        """Starts it and kills it, so long after it has begun and has so many results; whether it was not done before."""
        process = self.start()
        assert process.stdout
        for expected in ["begun\n", *["result\n"] * results]:
            line = process.stdout.readline()
            if line != expected:
                assert line == "done\n", process.communicate()
                break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        return process.returncode != 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def documents(count: int, *, size: int) -> list[str]:
    """Lines of the standard library's source, in random order, so that no two documents are alike; every tenth is there twice."""
    lines = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text().splitlines()
    texts = []
    for number in range(count):
        chosen, characters = [f"# document {number}"], 0
        drawn = random.Random(number)
        while characters < size:
            chosen.append(drawn.choice(lines))
            characters += len(chosen[-1])
        texts.append("\n".join(chosen) if number % 10 or not texts else texts[number // 2])
    return texts


def write_lines(file: Path, texts: list[str], *, other: int = 0) -> Path:
    """As JSON lines; `other`: characters beside each text, so that a small text has many chunks."""
    beside = {"other": "x" * other} if other else {}
    file.write_text("".join(json.dumps({**beside, "text": text}) + "\n" for text in texts))
    return file


def main(kind: type[Run]) -> None:
    """The life of such a process: of a module that says so at its end."""
    said = json.loads(sys.argv[1])
    run = kind(**{**said, "output": Path(said["output"])})
    print("begun", flush=True)
    run.here(progress=Tells(run.pause))
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Run)
