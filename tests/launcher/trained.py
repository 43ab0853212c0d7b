"""Tiny models, trained for a few steps on one process, for the commands that read a checkpoint."""

import os
import random
from pathlib import Path

import torch
from hexareme.conf.compose import compose
from hexareme.core.oversight import Oversight
from hexareme.core.run import Place, train
from hexareme.launcher.commands import prepare

from tests import deepspeed_ready  # noqa: F401  (the forked ranks share its imports)
from tests.ranks import run_single

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DENSE = ("model.num_layers=5", "model.vocab_size=283", "model.num_kv_heads=2")  # 5 blocks on 4 stages; a vocabulary that needs padding
EXPERTS = ("model.num_layers=2", "model.vocab_size=283", "model.num_experts=4", "model.dense_layers=1", "model.num_shared_experts=1")


def make_corpus(folder: Path) -> Path:
    """A corpus of counting with slips, as `hexareme prepare` makes it: a few steps learn enough of it to count on."""
    corpus, texts, dice = folder / "corpus", folder / "texts", random.Random(0)
    texts.mkdir()
    for document in range(20):
        words, number = [], 0
        for _ in range(400):
            number = (number + 1 if dice.random() < 0.9 else dice.randrange(10)) % 10
            words.append(WORDS[number])
        (texts / f"{document}.txt").write_text(" ".join(words))
    prepare.main([f"input={texts}", f"output={corpus}", "tokenizer.kind=byte_bpe", "tokenizer.vocab_size=280", "held_out=0.1"])
    return corpus


def train_tiny(corpus: Path, run: Path, *overrides: str, steps: int = 60) -> Path:
    """A run folder with one checkpoint."""
    config = compose("train", [
        "experiment=debug", f"data.train={corpus}", "data.validation=none", f"run.directory={run}", f"train.steps={steps}",
        "checkpoint.interval=0", "optimizer.learning_rate=1e-2", "tracking.console_interval=1000", *overrides])
    run.mkdir(parents=True)

    def rank(number: int) -> None:
        os.environ["LOCAL_RANK"] = "0"
        train(config, Place(number, 1, 0, torch.device("cpu")), Oversight())

    run_single(rank, timeout=120)
    return run
