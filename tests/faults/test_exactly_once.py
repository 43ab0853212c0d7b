"""Row E6: a run that is killed twenty times has seen each sample once an epoch, none again and none left out, and ends bit for bit as if
nobody had killed it: in a ramp-up of the batch, over two mixtures, and over the borders of epochs."""

import json
import os
import random
import signal

import numpy as np
import pytest
from hexareme.conf.compose import compose
from hexareme.core import run as run_module
from hexareme.core.batch import BatchPlan
from hexareme.core.training_data import open_training

from tests.data.token_files import random_documents, write_tokens
from tests.ranks import RankError

from .warm import go

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

KILLS, STEPS = 20, 24
WINDOWS = {"a": 40, "b": 13}  # of 16 tokens: several epochs of both
SMALL = ("model.num_layers=1", "model.hidden_size=16", "model.ffn_hidden_size=32", "model.sequence_length=16", "checkpoint.interval=2",
         f"train.steps={STEPS}", "batch.global_size=8", "batch.ramp_up={start: 4, increment: 2, samples: 60}", "batch.micro_size=2")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two sources, and the stages that mix them."""
    folder = tmp_path_factory.mktemp("sources")
    for seed, (name, windows) in enumerate(WINDOWS.items()):
        stream = sum(random_documents(100, 30, 512, seed), [])[: 16 * windows + 3]
        write_tokens(folder / name, [stream[at : at + 21] for at in range(0, len(stream), 21)])
    first, second = (f"{{path: {folder / name}, weight: %d}}" for name in WINDOWS)
    return [f"data.train=[{first % 3}, {second % 1}]", f"data.stages=[{{from_step: 11, train: [{first % 1}, {second % 1}]}}]"]


def dies_at(step, before):
    """SIGKILL of every rank as a step begins, or as it is done, logged and not yet saved."""
    def at_once(trainer):
        right = trainer.train_one_step

        def train_one_step():
            if before and trainer.progress.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = right()
            if trainer.progress.step == step + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        trainer.train_one_step = train_one_step

    return at_once


def killed_again_and_again(run, *overrides, ranks, seed):
    """Twenty kills, each a step or two after a checkpoint, before or after the step; then to the end."""
    chosen = random.Random(seed)
    for number in range(KILLS):
        checkpoints = sorted((run.directory / "checkpoints").glob("step-*"))
        step = int(checkpoints[-1].name.split("-")[1]) if checkpoints else 0
        reach = 3 if number % 2 else 1  # every second one gets past the next checkpoint
        with pytest.raises(RankError):
            go(run, *overrides, ranks=ranks, at_once=dies_at(min(step + chosen.randrange(reach), STEPS - 1), chosen.random() < 0.5))
    go(run, *overrides, ranks=ranks)


def audit(run, config):
    """What is wrong with the samples that a run has logged."""
    logged = [row["sample"] for row in map(json.loads, (run.directory / "samples.jsonl").read_text().splitlines())]
    total = BatchPlan.of_steps(config.batch).first_sample(STEPS)
    found = [f"{sample} came {logged.count(sample)} times" for sample in sorted({*logged, *range(total)})
             if logged.count(sample) != (sample < total)]
    training = open_training(config)
    sources, places = training.places(np.array(sorted(logged)))
    for number, windows in enumerate(WINDOWS.values()):
        mine = places[sources == number].tolist()
        assert len(mine) > windows, "no epoch is over"
        found += [f"source {number}: a window twice in the epoch from {first}" for first in range(0, len(mine), windows)
                  if len(set(mine[first : first + windows])) != len(mine[first : first + windows])]
    return found


def case(new_run, corpora, *overrides, ranks, seed=6):
    whole, killed = (new_run(name, *SMALL, *corpora, *overrides) for name in ("whole", "killed"))
    go(whole, ranks=ranks)
    killed_again_and_again(killed, ranks=ranks, seed=seed)
    return whole, killed


def composed(run):
    return compose("train", run.overrides)


def test_e6_twenty_kills(new_run, corpora):
    whole, killed = case(new_run, corpora, ranks=1)
    assert audit(whole, composed(whole)) == audit(killed, composed(killed)) == []
    assert killed.course() == whole.course()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("ranks", "overrides"), [(2, "parallel.zero=2"), (2, "parallel.pp=2 model.num_layers=2"), (4, "parallel.tp=2")])
def test_e6_on_other_layouts(new_run, corpora, ranks, overrides):
    whole, killed = case(new_run, corpora, "batch.micro_size=1", *overrides.split(), ranks=ranks)
    assert audit(killed, composed(killed)) == [] and killed.course() == whole.course()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_e6_killed_from_outside_at_any_time(new_run, corpora):
    """The real front end and its watchers, two ranks, kills after random times."""
    whole, killed = (new_run(name, *SMALL, *corpora, "batch.micro_size=1") for name in ("whole", "killed"))
    assert whole.start().finish() == 0
    chosen = random.Random(66)
    for number in range(KILLS):
        start = killed.start()
        start.await_step(min(killed.last_step() + chosen.randrange(1, 3), STEPS - 1 if number < KILLS - 1 else STEPS))
        start.kill()
        start.finish()
    assert killed.start().finish() == 0
    assert audit(killed, composed(killed)) == [] and killed.course() == whole.course()


def test_without_the_first_sample_of_a_start_the_audit_fails(new_run, corpora, monkeypatch):
    """Mutant: a start goes on with the samples of its step, as if no ramp-up had been."""
    right = run_module.BatchPlan.samples_from
    monkeypatch.setattr(BatchPlan, "samples_from", lambda plan, step, seen, rank: right(plan, step, step * plan.global_size, rank))
    run = new_run("run", *SMALL, *corpora)
    with pytest.raises(RankError):
        go(run, ranks=1, at_once=dies_at(7, True))
    go(run, ranks=1)
    assert audit(run, composed(run)) != []
