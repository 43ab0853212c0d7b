"""Row B11: one bit in one replica on one rank is found at the next audit, and before anything is saved."""

import time

import pytest
import torch
from hexareme.core.engine import replicas
from hexareme.core.engine.state import IN_USE, EngineState
from hexareme.core.trainer import Trainer

from tests.ranks import RankError

from .rig import Run
from .warm import go

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

NORM, TOKENS = "blocks.1.mlp_norm.weight", "embedding.tokens.weight"
EXPERT, HEADS = "blocks.1.mlp.experts.up.weight", "attention.qkv.weight"
EVERYTHING = EngineState.replicated
EXPERTS = "model=mixtral_debug model.dropout=0.1"
SHORT = ("train.steps=6", "health.audit_interval=4", "checkpoint.interval=0")
# ranks, layout, parameter, how many values a rank holds of it
CASES = {
    "DP2, ZeRO-0": (2, "parallel.zero=0", NORM, 64),
    "DP2, ZeRO-1": (2, "parallel.zero=1", NORM, 64),
    "DP2, ZeRO-2": (2, "parallel.zero=2", NORM, 64),
    "DP2, ZeRO-3": (2, "parallel.zero=3", NORM, 64),
    "TP2": (2, "parallel.tp=2", NORM, 64),
    "PP2, tied": (2, "parallel.pp=2", TOKENS, 512 * 64),
    "EP2": (2, f"parallel.ep=2 {EXPERTS}", NORM, 64),
}
LATER = {
    "CP2": (2, "parallel.cp=2", NORM, 64),
    "EP2 x DP2, an expert": (4, f"parallel.ep=2 {EXPERTS}", EXPERT, 2 * 2 * 128 * 64),
    "EP2, the bias of a router": (2, f"parallel.ep=2 model.router_balance=bias {EXPERTS}", "blocks.1.mlp.router.bias", 4),
    "TP4, a repeated kv head": (4, "parallel.tp=4 model.num_heads=4", f"blocks.0.{HEADS}", 2 * 16 * 64),
    "TP2 x PP2": (4, "parallel.tp=2 parallel.pp=2", "blocks.0.mlp_norm.weight", 64),
    "TP2 x DP2, ZeRO-3": (4, "parallel.tp=2 parallel.zero=3", NORM, 64),
}


def one_ulp(trainer: Trainer, name: str) -> None:
    """Moves the last value of a parameter of this rank to the next number, where the forward pass reads it."""
    zero = trainer.config.parallel.zero
    kinds = ("parameter", "buffer") if zero == 0 else (IN_USE, "buffer")
    touched = [fragment.tensor[-1:] for fragment in EVERYTHING(trainer.built.state) if fragment.name == name and fragment.kind in kinds]
    assert touched
    for value in touched:
        value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))


def drifting(change, *, after: int):
    """Lets rank 1's memory change after a step's update."""
    def at_once(trainer: Trainer) -> None:
        right = trainer.train_one_step

        def step():
            result = right()
            if trainer.progress.step == after and trainer.context.rank == 1:
                change(trainer)
            return result

        trainer.train_one_step = step

    return at_once


def failure(run: Run, *overrides: str, ranks: int = 2, at_once) -> RankError:
    """What a start ended with."""
    with pytest.raises(RankError) as caught:
        go(run, *overrides, ranks=ranks, at_once=at_once)
    return caught.value


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(each, marks=pytest.mark.nightly) for each in LATER)])
def test_one_ulp_on_one_rank_is_found_at_the_audit(case, new_run):
    """It names the parameter, both ranks, and how many values differ; nothing is saved."""
    ranks, overrides, name, values = (CASES | LATER)[case]
    run = new_run("run", *SHORT, *overrides.split())
    error = failure(run, ranks=ranks, at_once=drifting(lambda trainer: one_ulp(trainer, name), after=4))
    assert error.exit_code == 6 and run.last_step() == 4
    assert "rank 1" in error.what and "against rank" in error.what, error.what
    assert name in error.what and f"(1 of {values} values)" in error.what, error.what
    assert "more tensors" not in error.what
    assert not list(run.directory.glob("checkpoints/step-*"))


def one_ulp_of_the_master(trainer: Trainer) -> None:
    """In what the optimizer updates: it reaches the forward pass with the next update, and from there other tensors."""
    touched = [fragment.tensor[-1:] for fragment in trainer.built.state.fragments()
               if fragment.name == "blocks.0.mlp_norm.weight" and fragment.kind == "parameter"]
    assert touched
    for value in touched:
        value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))


@pytest.mark.parametrize(("ranks", "layout"), [
    (2, "parallel.tp=2"),
    pytest.param(4, "parallel.tp=2 parallel.pp=2", marks=pytest.mark.nightly),
    pytest.param(2, "parallel.zero=0", marks=pytest.mark.nightly),
])
def test_drift_between_two_audits_is_found_at_the_next_save_and_the_run_goes_on_from_the_one_before(ranks, layout, new_run):
    """No audit but at saves: steps later the drift is in many tensors; only the checkpoint before it is there, and it is right."""
    common = ("train.steps=10", *layout.split(), "checkpoint.interval=4", "health.audit_interval=0")
    whole, run = new_run("whole", *common), new_run("run", *common)
    go(whole, ranks=ranks)
    error = failure(run, ranks=ranks, at_once=drifting(one_ulp_of_the_master, after=5))
    assert error.exit_code == 6 and run.last_step() == 8
    assert "rank 1 against rank 0: " in error.what and len(error.what) < 1000
    assert [folder.name for folder in run.directory.glob("checkpoints/step-*")] == ["step-00000004"]
    go(run, ranks=ranks)
    assert run.course() == whole.course()


def test_a_run_that_drifts_says_so_and_exits_6(new_run):
    """The front end's code, its one line, and exit.json, of real processes."""
    right = Trainer.train_one_step

    def step(trainer):
        result = right(trainer)
        if trainer.progress.step == 4 and trainer.context.rank == 1:
            one_ulp(trainer, NORM)
        return result

    run = new_run("run", *SHORT, "parallel.tp=2")
    start = run.start(prepare=lambda: setattr(Trainer, "train_one_step", step))
    assert start.finish() == 6
    (line,) = start.error_lines()
    assert NORM in line and "rank 1 against rank 0" in line and len(line) < 2000
    assert run.exit_json()["code"] == 6 and run.exit_json()["step"] == 4


# ---- mutants: with this taken away, the rows above are red


def only_masters(patch):
    """An audit that reads what the optimizer updates, and not what the forward pass uses."""
    patch.setattr(EngineState, "replicated", EngineState.fragments)


def no_audit(patch):
    patch.setattr(replicas.Replicas, "check", lambda self: None)


@pytest.mark.parametrize("mutant", [only_masters, no_audit])
def test_without_the_protection_drift_is_missed(mutant, new_run, monkeypatch):
    """The mutants of the row DP2, ZeRO-1."""
    mutant(monkeypatch)
    run = new_run("run", *SHORT)
    go(run, at_once=drifting(lambda trainer: one_ulp(trainer, NORM), after=4))
    assert run.last_step() == 6


@pytest.mark.nightly
def test_the_audit_costs_less_than_half_a_percent(new_run):
    """At the default interval of 100 steps, of the time of a step; DP2 at ZeRO-0, where everything is a replica."""
    def timed(trainer):
        times = trainer.times = {"audit": [], "step": []}
        for owner, method, name in ((trainer.built.replicas, "check", "audit"), (trainer, "train_one_step", "step")):
            setattr(owner, method, timing(getattr(owner, method), times[name]))
        return times

    times = go(new_run("run", "parallel.zero=0", "health.audit_interval=1", "checkpoint.interval=0"), at_once=timed)[0]
    audit, step = (min(times[name]) for name in ("audit", "step"))  # the machine may be busy
    print(f"an audit takes {audit * 1e3:.1f} ms, a step {step * 1e3:.1f} ms: {audit / (100 * step):.3%} of the time at interval 100")
    assert audit / (100 * step) <= 0.005


def timing(function, times: list[float]):
    """A function that notes how long it takes."""
    def timed(*arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - begin)
        return result

    return timed
