"""Rows A1 and A2: ranks are killed at every moment of a save; the next start goes on by itself and ends as if nothing had been."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
from hexareme.core.checkpoint.folder import whole_folders

from tests.launcher.processes import wait_until

from .rig import SLACK, Run, Start, children, living, send
from .strace import Call, Hold, Tracer

STEPS, INTERVAL, HELD = 6, 2, 4  # the save of step 4 is struck, when step 2 is there already and is to go afterwards
SHORT = (f"train.steps={STEPS}", f"checkpoint.interval={INTERVAL}", "checkpoint.keep=1", "evaluation.interval=0")
BIG = ("model.vocab_size=46000", "model.sequence_length=8", "batch.global_size=2")  # 18 MB a rank: two blocks, so a shard has a middle
PEERS_SECONDS = 10.0
MODES = ("synchronous", "asynchronous")
NEW, OLD = ".step-00000004.tmp", "step-00000002"  # names without their random part


@dataclass(frozen=True)
class Actor:
    """A process that takes part in saves.

    Args:
        rank: which one, or whose worker.
        worker: the process that writes the asynchronous saves of a rank.
    """

    rank: int
    worker: bool = False

    def process(self, start: Start) -> int:
        """Its process id."""
        rank = start.rank(self.rank)
        if not self.worker:
            return rank
        return next(child for child in children(rank) if b"checkpoint.worker" in Path(f"/proc/{child}/cmdline").read_bytes())


def actors(mode: str) -> list[Actor]:
    """Who changes the disk: of an asynchronous save rank 0 makes the folder and prunes, the workers write."""
    return [Actor(0), Actor(1)] if mode == "synchronous" else [Actor(0), Actor(0, worker=True), Actor(1, worker=True)]


def of_mode(mode: str) -> tuple[str, ...]:
    return (*SHORT, f"checkpoint.asynchronous={str(mode == 'asynchronous').lower()}")


def held(run: Run) -> tuple[Start, Hold]:
    """A start whose ranks stand before the save of step 4."""
    hold = Hold(run.folder, HELD)
    start = run.start(prepare=hold.prepare)
    hold.wait(start)
    return start, hold


def traced(run: Run, mode: str) -> dict[Actor, list[Call]]:
    """The calls of one save that touch the run's folder: from its first to the end of the pruning that follows it."""
    start, hold = held(run)
    tracers = {actor: Tracer([actor.process(start)], run.folder / f"trace-{actor.rank}-{actor.worker}") for actor in actors(mode)}
    hold.release()
    assert start.finish() == 0, start.text()
    found = {}
    for actor, tracer in tracers.items():
        tracer.wait()
        found[actor] = calls_of_save(run, tracer.calls())
    assert OLD in found[Actor(0)][-1].what, "the trace ends with the pruning of step 2"
    return found


def in_run(run: Run, call: Call) -> Call:
    return replace(call, what=call.what.replace(f"{run.directory}/", ""))


def calls_of_save(run: Run, calls: list[Call]) -> list[Call]:
    """Those in the run's folder, whose path is left out, up to the last that is about the save of step 4 or the pruning of step 2."""
    last = max((at for at, call in enumerate(calls) if OLD in call.what or NEW in call.what), default=-1)
    return [in_run(run, call) for call in calls[: last + 1] if str(run.directory) in call.what]


def whole_steps(run: Run) -> list[int]:
    return [manifest.step for _, manifest in whole_folders(run.directory / "checkpoints")]


def goes_on(run: Run, reference: tuple) -> int:
    """The next start does all by itself; returns the steps that were lost."""
    lost = run.last_step() - whole_steps(run)[0]
    start = run.start()
    assert start.finish() == 0, start.text()
    assert run.course() == reference
    assert sorted(os.listdir(run.directory / "checkpoints")) == ["latest", f"step-{STEPS:08d}"]
    return lost


SHARD = "rank-0000{}.safetensors"


@dataclass(frozen=True)
class Moment:
    """The moment after a call.

    Args:
        call: its name.
        what: the end of the path it is about; `{}` stands for the number of the rank.
        writer: whether the process that writes makes it, which in an asynchronous save is the worker.
    """

    call: str
    what: str
    writer: bool = True


MOMENTS: dict[str, Moment | None] = {
    "before the snapshot": None,
    "folder made": Moment("mkdir", NEW, writer=False),
    "mid shard": Moment("write", f"{NEW}/{SHARD}"),  # after the first of two blocks
    "shard written": Moment("write", f"{NEW}/{SHARD}"),
    "shard synced": Moment("fsync", f"{NEW}/{SHARD}"),
    "mid manifest": Moment("openat", f"{NEW}/manifest.json"),
    "before the rename": Moment("fsync", NEW),
    "after the rename": Moment("rename", "/step-00000004"),
    "mid latest.tmp": Moment("openat", "/latest.tmp"),
    "after latest": Moment("rename", "/latest"),
    "mid prune": Moment("unlinkat", f"{OLD}/{SHARD}", writer=False),
}
OF_EACH_RANK = ("mid shard", "shard written", "shard synced")
COMMITTING = ("mid manifest", "before the rename")
COMMITTED = ("after the rename", "mid latest.tmp", "after latest", "mid prune")
VICTIMS = {"rank 0": (0,), "rank 1": (1,), "all": (0, 1)}
ALL = [(moment, victims) for moment in MOMENTS for victims in VICTIMS]
QUICK = [(moment, list(VICTIMS)[at % 3]) for at, moment in enumerate(MOMENTS)] + [("before the rename", "all")]


def overrides_at(moment: str) -> tuple[str, ...]:
    return BIG if moment == "mid shard" else ()


class Kills:
    """Runs of one mode: their reference, and the calls of one save of theirs."""

    def __init__(self, corpus: str, folder: Path, mode: str, *overrides: str) -> None:
        self.mode, self.overrides = mode, (*of_mode(mode), *overrides)
        self._corpus, self._folder = corpus, folder

    @property
    def most_lost(self) -> int:
        """Steps: while an asynchronous save is written, training goes on, up to where the next save waits for it."""
        return INTERVAL * (2 if self.mode == "asynchronous" else 1)

    @cached_property
    def reference(self) -> tuple[dict, dict, dict]:
        """What the uninterrupted run gives."""
        run = self._run("reference")
        assert run.start().finish() == 0
        return run.course()

    @cached_property
    def calls(self) -> dict[Actor, list[Call]]:
        """Of one save."""
        return traced(self._run("traced"), self.mode)

    def _run(self, name: str) -> Run:
        (self._folder / name).mkdir()
        return Run(self._folder / name, self._corpus, *self.overrides)


@pytest.fixture(scope="module")
def kills(corpus, tmp_path_factory) -> Callable[..., Kills]:
    made: dict[tuple[str, ...], Kills] = {}

    def get(mode: str, *overrides: str) -> Kills:
        key = mode, *overrides
        if key not in made:
            made[key] = Kills(corpus, tmp_path_factory.mktemp("reference"), mode, *overrides)
        return made[key]

    return get


def stopped_at(run: Run, name: str, victims: tuple[int, ...], kills: Kills) -> Start:
    """A start in which the victims have just been killed at a moment; who made the call stood still after it."""
    moment = MOMENTS[name]
    start, hold = held(run)
    if moment is None:
        kill(start, victims)
        hold.release()
        return start
    rank = victims[0] if name in OF_EACH_RANK else 0
    process = Actor(rank, moment.writer and kills.mode == "asynchronous").process(start)
    tracer = Tracer.stopping(process, run.folder / "trace", moment.call)
    hold.release()
    tracer.await_stop(lambda call: call.what.endswith(moment.what.format(rank)), start.ended)
    kill(start, victims)
    if rank in victims:  # its worker, too, ends with it, and where it stands: it must not finish its part meanwhile
        wait_until(lambda: not living(process), SLACK * PEERS_SECONDS)
    else:
        send(process, signal.SIGCONT)
    tracer.close()
    return start


def kill(start: Start, victims: tuple[int, ...]) -> None:
    for rank in [start.rank(number) for number in victims]:
        os.kill(rank, signal.SIGKILL)


def newest_whole(moment: str, victims: tuple[int, ...]) -> set[int]:
    """The step that the next start may go on from."""
    if moment in COMMITTED:
        return {HELD}
    finishes = moment in COMMITTING and 0 not in victims  # every part is on the disk: rank 0 may commit before it misses the other
    return {HELD - INTERVAL, HELD} if finishes else {HELD - INTERVAL}


def check_moment(run: Run, moment: str, victims: str, kills: Kills) -> None:
    start = stopped_at(run, moment, VICTIMS[victims], kills)
    begun = time.monotonic()
    assert start.finish() == 128 + signal.SIGKILL, start.text()
    assert time.monotonic() - begun < SLACK * PEERS_SECONDS
    assert run.exit_json()["code"] == 137 and run.exit_json()["rank"] in VICTIMS[victims]
    assert whole_steps(run)[0] in newest_whole(moment, VICTIMS[victims])
    assert goes_on(run, kills.reference) <= kills.most_lost


@pytest.mark.parametrize(("moment", "victims"), QUICK)
def test_killed_at_a_moment_of_a_save(new_run, kills, moment, victims):
    """A1, T0: each of the eleven moments once, each choice of victims about as often."""
    known = kills("synchronous", *overrides_at(moment))
    check_moment(new_run("run", *known.overrides), moment, victims, known)


@pytest.mark.nightly
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("moment", "victims"), ALL)
def test_killed_at_every_moment_of_a_save(new_run, kills, mode, moment, victims):
    """A1, T1: 33 of 33, in both modes. An asynchronous save whose write takes longer than an interval loses up to two."""
    known = kills(mode, *overrides_at(moment))
    check_moment(new_run("run", *known.overrides), moment, victims, known)


def struck(run: Run, actor: Actor, call: Call, known: "Kills", *, by_number: bool) -> Call:
    """Kills an actor at a call (`by_number`: before it is made, else after the one about the same file), and returns the call that it was.

    The run then ends as the reference, whatever it takes.
    """
    start, hold = held(run)
    process, log = actor.process(start), run.folder / "trace"
    tracer = Tracer.killing(process, log, call) if by_number else Tracer.stopping(process, log, call.name)
    hold.release()
    if not by_number:
        tracer.await_stop(lambda made: in_run(run, made).what == call.what, start.ended)
        send(process, signal.SIGKILL)
    code = start.finish()
    tracer.wait()
    assert "killed by SIGKILL" in tracer.text(), f"it never came there:\n{tracer.text()}"
    assert code == 137 or (code == 0 and actor.worker), start.text()
    if code == 0:  # without its worker a run goes on, and saves anew with another
        assert run.course() == known.reference
    else:
        assert goes_on(run, known.reference) <= known.most_lost
    return in_run(run, tracer.calls()[-1])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "actor"), [(mode, actor) for mode in MODES for actor in actors(mode)], ids=str)
def test_killed_at_every_call_of_a_save(new_run, kills, capsys, mode, actor):
    """A2: at every open, write, fsync, rename, unlink and mkdir of one save and of the pruning after it."""
    known = kills(mode)
    calls, hit, wrong = known.calls[actor], set(), []
    numbers = itertools.count()
    for call in calls:
        for by_number in (True, False):  # what waits for others makes more calls or fewer: the same number may be another call
            run = new_run(f"run-{next(numbers)}", *known.overrides)
            try:
                done = struck(run, actor, call, known, by_number=by_number)
            except AssertionError as error:
                wrong.append(f"{call}: {error}")
                break
            finally:
                run.close()
            shutil.rmtree(run.folder)
            hit.add((done.name, done.what))
            if (call.name, call.what) in hit:
                break
    with capsys.disabled():
        print(f"\n{mode} save, {actor}: killed at {len(calls)} calls; {len(calls) - len(wrong)} resumed bit-identically")
    assert not wrong, "\n".join(wrong)
    missed = {(call.name, call.what) for call in calls} - hit
    assert not missed, f"never killed at {missed}"
