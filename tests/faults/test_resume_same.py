"""Row B6: a resume on the same layout is bit-identical, dropout on, whatever the step; and nothing that a resume needs is forgotten."""

import random

import numpy as np
import pytest
import torch
from hexareme.core import run as run_module
from hexareme.core.checkpoint.folder import folder_name
from hexareme.core.checkpoint.reader import Checkpoint
from hexareme.core.engine.engine import Engine
from hexareme.core.engine.state import EngineState
from hexareme.core.errors import CheckpointError

from tests.ranks import RankError

from .rig import Run, hashes
from .warm import go, stopped_at

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

EXPERTS = "model=mixtral_debug model.dropout=0.1 model.router_balance=bias model.router_bias_rate=0.01"
LAYOUTS = {
    "DP2, ZeRO-0": (2, "parallel.zero=0"),
    "DP2, ZeRO-1": (2, "parallel.zero=1"),
    "DP2, ZeRO-2": (2, "parallel.zero=2"),
    "DP2, ZeRO-3": (2, "parallel.zero=3"),
    "TP2": (2, "parallel.tp=2"),
    "PP2": (2, "parallel.pp=2"),
    "DP2 x TP2": (4, "parallel.tp=2"),
    "TP2 x PP2": (4, "parallel.tp=2 parallel.pp=2"),
    "CP2": (2, "parallel.cp=2"),
    "EP2, router biases": (2, f"parallel.ep=2 {EXPERTS}"),
    "DP2, fp16, ZeRO-2": (2, "parallel.zero=2 train.precision=fp16"),
}
QUICK = ("DP2, ZeRO-1", "TP2", "EP2, router biases")
SHORT = "train.steps=9"
STOPS = (1, 4, 8)


@pytest.mark.parametrize("name", QUICK)
def test_stopped_three_times_a_run_is_the_same_bit_for_bit(name, new_run):
    """B6, T0: losses, gradient norms, samples, and the SHA-256 of every tensor."""
    ranks, overrides = LAYOUTS[name]
    whole, parts = (new_run(each, *overrides.split(), SHORT, "checkpoint.interval=0") for each in ("whole", "parts"))
    go(whole, ranks=ranks)
    for stop in STOPS:
        go(parts, f"train.stop_at={stop}", ranks=ranks)
        assert parts.last_step() == stop
    go(parts, ranks=ranks)
    assert parts.course() == whole.course()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LAYOUTS)
def test_from_each_of_forty_steps_a_run_is_the_same_bit_for_bit(name, new_run):
    """B6, T1."""
    ranks, overrides = LAYOUTS[name]
    whole = new_run("whole", *overrides.split(), "checkpoint.interval=1", "checkpoint.keep=40")
    go(whole, ranks=ranks)
    course, same = whole.course(), 0
    for step in range(1, 41):
        parts = stopped_at(whole, step, new_run(f"from-{step}", *overrides.split(), "checkpoint.interval=0"))
        go(parts, ranks=ranks)
        assert parts.course() == course, f"stopped at step {step}"
        same += 1
    print(f"{name}: {same} of 40 steps bit-identical")


# ---- what a resume might forget


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    """A run of whose every step there is a checkpoint."""
    run = Run(tmp_path_factory.mktemp("uninterrupted"), corpus, "train.steps=6", "checkpoint.interval=1", "checkpoint.keep=6",
              "train.precision=fp16", *EXPERTS.split())
    go(run)
    return run


def moments_not_loaded(patch):
    right = Checkpoint.load
    patch.setattr(Checkpoint, "load", lambda self, fragments, **rest: right(
        self, [each for each in fragments if each.kind in ("parameter", "buffer")], **rest))


def router_biases_not_loaded(patch):
    right = Checkpoint.load
    patch.setattr(Checkpoint, "load", lambda self, fragments, **rest: right(
        self, [each for each in fragments if each.kind != "buffer"], **rest))


def update_count_not_restored(patch):
    right = EngineState.set_counters
    patch.setattr(EngineState, "set_counters", lambda self, counters: right(self, {**counters, "updates": 0}))


def loss_scale_not_restored(patch):
    right = EngineState.set_counters
    patch.setattr(EngineState, "set_counters", lambda self, counters: right(self, {"updates": counters["updates"]}))


def samples_seen_not_restored(patch):
    right = run_module.Progress
    patch.setattr(run_module, "Progress", lambda step=0, samples_seen=0: right(step, 0))


def schedule_not_restored(patch):
    patch.setattr(Engine, "go_to", lambda self, step: None)


def old_weights_in_the_forward_pass(patch):
    patch.setattr(EngineState, "after_load", lambda self: None)


FORGOTTEN = {
    "nothing": None,
    "the moments": moments_not_loaded,
    "the balance biases of routers": router_biases_not_loaded,
    "Adam's count of updates": update_count_not_restored,
    "the loss scale": loss_scale_not_restored,
    "samples_seen": samples_seen_not_restored,
    "the schedule": schedule_not_restored,
    "the parameters of the forward pass": old_weights_in_the_forward_pass,
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_resume_that_forgets_anything_is_another_run(name, uninterrupted, new_run, monkeypatch):
    """The mutants of B6; "nothing" shows that the others fail for what they forget. A load that leaves a tensor out fails by itself."""
    run = stopped_at(uninterrupted, 3, new_run("run", *uninterrupted.overrides, "checkpoint.interval=0"))
    run.overrides.append(f"run.directory={run.directory}")
    if FORGOTTEN[name] is None:
        go(run)
        assert course_with_counters(run) == course_with_counters(uninterrupted)
        return
    FORGOTTEN[name](monkeypatch)
    try:
        go(run)
    except RankError as error:
        assert error.exit_code == CheckpointError.exit_code, error
    else:
        assert course_with_counters(run) != course_with_counters(uninterrupted)


def course_with_counters(run):
    """All that must be equal, the loss scaler's state too."""
    folder = run.directory / "checkpoints" / folder_name(run.last_step())
    return run.losses(), run.samples(), hashes(folder), dict(Checkpoint.open(folder).extra)


def test_no_number_is_drawn_from_a_global_generator(new_run, uninterrupted):
    """Each rank starts with other seeds; the generators are as they were at the end, and the run is the same."""
    def poison(trainer):
        number = 17 + trainer.context.rank
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        right, before = trainer.run, generators()

        def checked():
            reason = right()
            assert generators() == before, "the run drew a number from a global generator"
            return reason

        trainer.run = checked

    run = new_run("run", *uninterrupted.overrides, "checkpoint.interval=0")
    run.overrides.append(f"run.directory={run.directory}")
    go(run, at_once=poison)
    assert course_with_counters(run) == course_with_counters(uninterrupted)


def generators():
    """The state of every global generator, as plain values."""
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()
