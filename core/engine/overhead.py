"""What a step costs beside the model: a bare torch loop, the same under DeepSpeed, and our whole step, in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import deepspeed
import numpy as np
import torch

from ...conf.schema import Config
from ...data.samples.loader import Loader
from ...data.tokens.writer import TokenFileWriter, token_dtype
from ...parallel.partition_module import placed_parameters
from ..inputs import MicroBatch, micro_batch
from ..loss import LossModel
from ..model.build import build_model
from ..oversight import Oversight
from ..run import Place, open_data, open_run
from ..trainer import Trainer
from .optimizer import build_optimizer, parameter_groups
from .settings import deepspeed_settings


@dataclass(frozen=True)
class Overhead:
    """CPU milliseconds of a step: median over the rounds."""

    torch_ms: float
    deepspeed_ms: float
    hexareme_ms: float

    @property
    def beyond_deepspeed_ms(self) -> float:
        """What we add to DeepSpeed's own step."""
        return self.hexareme_ms - self.deepspeed_ms


def write_random_corpus(folder: Path, *, vocab_size: int, tokens: int) -> str:
    """A token file of random ids; returns its prefix."""
    prefix = folder / "random"
    with TokenFileWriter(prefix, token_dtype(vocab_size)) as writer:
        tokens -= tokens % 1024
        ids = np.random.default_rng(0).integers(0, vocab_size, tokens)
        writer.add_documents(ids, np.full(tokens // 1024, 1024))
        writer.finish()
    return str(prefix)


def measure_overhead(config: Config, *, steps: int, rounds: int) -> Overhead:
    """Times the three loops in turn, round by round, so that a change of the machine's speed meets all of them.

    Args:
        config: of a run on one process, one micro-batch a step; its corpus exists.
        steps: timed steps of one round.
        rounds: the median counts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = open_run(config, Place(rank=0, world_size=1, local_rank=0, device=device), Oversight())
    bare, under_deepspeed = Bare(config, trainer), UnderDeepSpeed(config, trainer)
    loops: list[Callable[[], object]] = [bare.step, under_deepspeed.step, trainer.train_one_step]
    seconds: list[list[float]] = [[], [], []]
    try:
        for round_number in range(rounds + 1):
            for loop, found in zip(loops, seconds, strict=True):
                begin = time.process_time()
                for _ in range(steps):
                    loop()
                if round_number:  # the first round warms up
                    found.append((time.process_time() - begin) / steps)
    finally:
        for owner in (bare, under_deepspeed, trainer):
            owner.loader.close()
    torch_ms, deepspeed_ms, hexareme_ms = (1000 * median(found) for found in seconds)
    return Overhead(torch_ms, deepspeed_ms, hexareme_ms)


class Bare:
    """What anybody would write first: the model, AdamW, clipping, the same batches.

    Args:
        config: of the run.
        trainer: whose model and data are copied.
    """

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self._config, self._device = config, trainer.device
        training, _ = open_data(config)
        self.loader = Loader(training, local_samples=lambda step: trainer.plan.samples(step, 0), workers=config.data.workers)
        transformer = build_model(config.model, seed=0, groups=trainer.context.layer_groups(), device=trainer.device)
        groups = parameter_groups(placed_parameters(transformer), config.optimizer)
        self.model = LossModel(transformer, precision=config.train.precision.value)
        self.optimizer = build_optimizer(groups, config.optimizer, device=trainer.device, offloaded=False)
        self._number = 0

    def micro_batch(self) -> MicroBatch:
        """The only micro-batch of the next step."""
        batch = self.loader.batch(self._number)
        self._number += 1
        return micro_batch(batch, step=self._number, document_mask=self._config.data.document_mask, device=self._device)

    def step(self) -> float:
        """One update; returns the loss, as any loop would print it."""
        micro = self.micro_batch()
        loss = self.model(micro.inputs, micro.targets_BS, micro.loss_mask_BS) / micro.loss_mask_BS.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.train.gradient_clipping)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


class UnderDeepSpeed(Bare):
    """The same loop with DeepSpeed's engine, used as its documentation says."""

    def __init__(self, config: Config, trainer: Trainer) -> None:
        super().__init__(config, trainer)
        settings = deepspeed_settings(config.train, config.parallel, micro_size=config.batch.micro_size, accumulation_steps=1, dp=1,
                                      pin_memory=trainer.device.type == "cuda")
        self._engine, *_ = deepspeed.initialize(model=self.model, optimizer=self.optimizer, config=settings, dist_init_required=False)

    def step(self) -> float:
        """One update; returns the loss."""
        micro = self.micro_batch()
        loss = self._engine(micro.inputs, micro.targets_BS, micro.loss_mask_BS) / micro.loss_mask_BS.sum()
        self._engine.backward(loss)
        self._engine.step()
        return float(loss.detach())
