"""Row C10: the link between two hosts is cut, in a forward pass and in a save: both sides end in time; a short cut changes nothing."""

import os
import threading
import time

import pytest
from hexareme.core.trainer import Trainer
from hexareme.launcher.rank import run_rank
from hexareme.launcher.watch.watcher import main as watch

from .hosts import TwoHosts, on_host
from .rig import SLACK, Run, fork, wait_until

TIMEOUT, DETECTED = 3.0, 5.0
CUT_AFTER = 4  # steps
PORT = 29871  # of a network that this test has for itself
OVERRIDES = ("train.steps=12", "checkpoint.interval=6")

pytestmark = pytest.mark.nightly


@pytest.fixture
def hosts():
    made = TwoHosts()
    yield made
    made.close()


def start(run: Run, hosts: TwoHosts, prepare=lambda: None) -> list[int]:
    """One watcher on each host, on one folder."""
    def side(number: int):
        def action() -> int:
            os.environ.update(hosts.variables(number, PORT))
            prepare()
            return watch(run.overrides, run_rank)

        return on_host(hosts, number, action)

    return [fork(side(number), run.folder / f"host-{number}.txt") for number in range(2)]


def exit_codes(processes: list[int], seconds: float) -> list[tuple[int, float]]:
    """Exit code of each, and when it came."""
    found: dict[int, tuple[int, float]] = {}

    def all_ended() -> bool:
        for process in processes:
            if process not in found and (ended := os.waitpid(process, os.WNOHANG))[0]:
                found[process] = (os.waitstatus_to_exitcode(ended[1]), time.monotonic())
        return len(found) == len(processes)

    try:
        wait_until(all_ended, seconds)
    finally:
        for process in set(processes) - set(found):
            os.kill(process, 9)
            os.waitpid(process, 0)
    return [found[process] for process in processes]


def before(place: str, action) -> None:
    """Rank 0 does something as it begins the step or the save after CUT_AFTER steps."""
    original = getattr(Trainer, place)

    def wrapped(self, *arguments, **options):
        if self.context.rank == 0 and self.progress.step >= CUT_AFTER and not hasattr(self, "was_cut"):
            self.was_cut = True
            action()
        return original(self, *arguments, **options)

    setattr(Trainer, place, wrapped)


def outputs(run: Run) -> str:
    return "".join((run.folder / f"host-{number}.txt").read_text() for number in range(2))


@pytest.mark.parametrize("place", ["train_one_step", "save"])
def test_a_cut_link_ends_both_sides(new_run, hosts, place):
    run = new_run(place, *OVERRIDES, f"run.hang_timeout={TIMEOUT}")
    when = run.folder / "when"

    def cut() -> None:
        hosts.cut()
        when.write_text(str(time.monotonic()))

    codes = exit_codes(start(run, hosts, lambda: before(place, cut)), 60 + SLACK * (TIMEOUT + DETECTED))
    text = outputs(run)
    assert [code for code, _ in codes] == [5, 5], text
    for _, moment in codes:
        seconds = moment - float(when.read_text())
        print(f"{place}: {seconds:.1f} s")
        assert seconds < SLACK * (TIMEOUT + DETECTED)
    (line,) = [line for line in text.splitlines() if line.startswith("ERROR ")]
    print(line)
    assert "hung in phase" in line and "the link between host0, host1 may be cut" in line
    assert run.exit_json()["reason"] == "hang"


def test_a_short_cut_changes_nothing(new_run, hosts):
    reference = new_run("reference", *OVERRIDES)
    assert reference.start().finish() == 0
    run = new_run("run", *OVERRIDES, "run.hang_timeout=30")

    def blink() -> None:
        hosts.cut()
        threading.Timer(3.0, hosts.restore).start()

    assert [code for code, _ in exit_codes(start(run, hosts, lambda: before("train_one_step", blink)), 120)] == [0, 0], outputs(run)
    assert run.course() == reference.course()
