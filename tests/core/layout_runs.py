"""Whole runs on some layout, killed where a test wants it, and what a plain torch loop on one process makes of the same config."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hexareme.conf.compose import compose
from hexareme.conf.schema import Config
from hexareme.core import run as run_module
from hexareme.core.batch import BatchPlan
from hexareme.core.inputs import micro_batch
from hexareme.core.model.build import build_model
from hexareme.core.oversight import Oversight
from hexareme.core.trainer import Trainer
from hexareme.data.samples.batch import Batch
from hexareme.launcher.commands import evaluate
from hexareme.parallel.context import LayerGroups
from torch import nn

from tests import deepspeed_ready  # noqa: F401  (forked ranks share its imports)
from tests.ranks import RankError, run_ranks, run_single, world

Course = dict[int, tuple[float, float]]  # step -> loss and gradient norm
Samples = dict[tuple[int, int], tuple[int, list[int]]]  # step and sample -> source and documents
CPU = torch.device("cpu")
SAME = 1e-5  # the gate's tolerance: relative, of each loss and norm
COMMON = ("experiment=debug", "model.num_layers=2", "model.dropout=0.1", "schedule=constant", "schedule.warmup_steps=0",
          "train.gradient_clipping=0.5", "train.steps=4", "batch.global_size=8", "batch.micro_size=2", "checkpoint.interval=1",
          "evaluation.interval=1", "evaluation.samples=0", "data.audit=true", "tracking.console_interval=1000")


@dataclass(frozen=True)
class Plain:
    """What a loop of torch's own parts makes of a config.

    Args:
        course: of each step.
        validation: mean loss on the validation set after each step; empty where there is none.
        samples: that it trained on.
    """

    course: Course
    validation: dict[int, float]
    samples: Samples


def composed(directory: Path, overrides: str) -> Config:
    """A small run; what the overrides say wins."""
    return compose("train", [*COMMON, f"run.directory={directory}", *overrides.split()])


def start(config: Config, ranks: int, *, dies: int = 0) -> None:
    """One start of a run, to its end or to a SIGKILL of every rank as step `dies`, counted from 1, is done and not yet saved."""
    Path(config.run.directory).mkdir(parents=True, exist_ok=True)
    try:
        run_ranks(_rank, ranks, config, ranks, dies, timeout=240, quiet=True)
    except RankError as error:
        if not dies or "exit code -9" not in str(error):
            raise
        return
    assert not dies, "nothing killed it"


def chain(directory: Path, words: str, starts: Sequence[tuple[int, str, int]]) -> None:
    """One run, started again and again.

    Args:
        directory: of the run.
        words: overrides of every start.
        starts: ranks, overrides, and the step in which it is killed (0: none), of each start.
    """
    for ranks, overrides, dies in starts:
        start(composed(directory, f"{words} {overrides}"), ranks, dies=dies)


def _rank(rank: int, config: Config, ranks: int, dies: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    right = Trainer.train_one_step

    def deadly(trainer: Trainer) -> Any:
        result = right(trainer)
        if trainer.progress.step == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Trainer.train_one_step = deadly  # of this process, which ends with the case
    run_module.train(config, run_module.Place(rank, ranks, rank, CPU), Oversight())


def course_of(directory: Path) -> Course:
    """Of each step that a run has recorded."""
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in _rows(directory / "metrics.jsonl") if "loss" in row}


def validation_of(directory: Path) -> dict[int, float]:
    """Loss after each step."""
    return {row["step"]: row["validation_loss"] for row in _rows(directory / "metrics.jsonl") if "validation_loss" in row}


def samples_of(directory: Path) -> Samples:
    """Those that a run has logged; none twice."""
    rows = _rows(directory / "samples.jsonl")
    found = {(row["step"], row["sample"]): (row["source"], row["documents"]) for row in rows}
    assert len(found) == len(rows), "a sample was trained on twice"
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluated(directory: Path, *overrides: str) -> dict[str, Any]:
    """What `hexareme evaluate` says of a run, on two ranks of the tensor axis."""
    output = directory / "evaluated.json"
    assert evaluate.main([f"directory={directory}", f"output={output}", "parallel.tp=2", *overrides]) == 0
    return json.loads(output.read_text())


def difference(directory: Path, wanted: Plain) -> float:
    """The largest relative difference of any loss, norm or validation loss of a run of the same steps."""
    found = course_of(directory)
    judged = validation_of(directory)
    assert found.keys() == wanted.course.keys() and judged.keys() == wanted.validation.keys()
    pairs = [pair for step in found for pair in zip(found[step], wanted.course[step], strict=True)]
    return max(abs(a - b) / abs(b) for a, b in [*pairs, *((judged[step], wanted.validation[step]) for step in judged)])


def plain(config: Config) -> Plain:
    """A plain loop on one process, over whole batches; of the layout nothing is read."""
    return run_single(_plain, config, timeout=240)


def _plain(rank: int, config: Config) -> Plain:
    training, validation = run_module.open_data(config)
    plan, o = BatchPlan.of_steps(config.batch), config.optimizer
    model = build_model(config.model, seed=config.train.seed, groups=LayerGroups.of_tensor_axis(world()), device=CPU)
    optimizer = torch.optim.AdamW([{"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": o.weight_decay},
                                   {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}],
                                  lr=o.learning_rate, betas=(o.betas[0], o.betas[1]), eps=o.epsilon)
    found = Plain({}, {}, {})
    for step in range(config.train.steps):
        first = plan.first_sample(step)
        batch = training.batch(range(first, first + plan.size(step)))
        for sample, source, documents in zip(batch.samples_B.tolist(), batch.sources_B.tolist(), batch.document_ids_B, strict=True):
            found.samples[step + 1, sample] = source, list(documents)
        loss = _mean_loss(model, [batch], step, config)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.train.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        found.course[step + 1] = loss.item(), norm.item()
        if validation is not None:
            model.eval()
            with torch.no_grad():
                windows = [validation.batch([index]) for index in range(len(validation))]
                found.validation[step + 1] = _mean_loss(model, windows, 0, config).item()
            model.train()
    return found


def _mean_loss(model: Callable[..., torch.Tensor], batches: Sequence[Batch], step: int, config: Config) -> torch.Tensor:
    """Over all tokens that count."""
    sums = []
    for batch in batches:
        whole = micro_batch(batch, step=step, document_mask=config.data.document_mask, device=CPU)
        losses = F.cross_entropy(model(whole.inputs).flatten(0, 1), whole.targets_BS.flatten(), reduction="none")
        sums.append(torch.stack([(losses * whole.loss_mask_BS.flatten()).sum(), whole.loss_mask_BS.sum()]))
    total, tokens = torch.stack(sums).sum(dim=0)
    return total / tokens
