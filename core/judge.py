"""Decides after each step what becomes of its numbers, alike on all ranks, and tells people why."""

import logging
import math
from collections.abc import Callable, Sequence

from ..data.samples.batch import Batch
from ..data.samples.sample_origin import sample_origins
from ..data.tokens.token_file import TokenFile
from ..parallel.context import ParallelContext
from .engine.engine import Engine, StepResult
from .engine.sentinel import Seen
from .health import Health, LossSpike
from .origin import SHARE, Witness, account, bounded, gather, highest_loss

log = logging.getLogger(__name__)


class Judge:
    """The health of a run, with the way to its causes.

    Args:
        health: policy and memory.
        engine: knows what this rank saw.
        context: the process groups.
        files: of the training set.
        micro_size: samples of one forward pass.
        tell: prints a line for people; None but on rank 0.
    """

    def __init__(self, health: Health, engine: Engine, *, context: ParallelContext, files: Sequence[TokenFile], micro_size: int,
                 tell: Callable[[str], None] | None) -> None:
        self.health = health
        self.spike: LossSpike | None = None  # of the last step
        self._engine, self._context, self._files, self._micro_size, self._tell = engine, context, files, micro_size, tell

    def after_step(self, result: StepResult, batch: Batch, *, step: int) -> None:
        """Judges a step; collective where it is not healthy.

        Args:
            result: of the engine.
            batch: this rank's samples.
            step: steps done, this one included.

        Raises:
            NonFiniteError: the policy ends the run; nothing was updated.
        """
        self.spike = None
        if result.non_finite:
            self._skip(result, batch, step)
        elif result.overflow:
            self.health.overflow()
        else:
            self.spike = self.health.healthy(result.loss)
            if self.spike is not None:
                self.warn(f"WARNING: step {step}: {self.spike}; {self._largest_loss(batch)}")

    def wants_rewind(self) -> bool:
        """Whether the last step was a spike that the run goes back from."""
        return self.spike is not None and self.health.rewinding

    def going_back(self, step: int) -> None:
        """Counts a rewind.

        Args:
            step: of the spike.

        Raises:
            NonFiniteError: one too many.
        """
        self.health.rewind(f"step {step}: {self.spike}")

    def _skip(self, result: StepResult, batch: Batch, step: int) -> None:
        number = f"the loss of step {step} is {result.loss}" if result.non_finite == "loss" else f"a gradient of step {step} is not finite"
        message = account(number, self._witnesses(self._engine.seen(), batch))
        self.health.skip(message)
        self.warn(f"WARNING: step {step} passed over ({self.health.skips_in_row} in a row): {message}")

    def _witnesses(self, seen: Seen, batch: Batch) -> list[Witness]:
        place = self._context.coordinate
        parts = batch.split(self._micro_size)
        chosen = [parts[number] for number in seen.micro_batches] or parts
        guilty = seen.hidden_stage is not None or seen.loss or seen.gradient_stage is not None
        samples = "; ".join(sample_origins(self._files, part, most=SHARE // min(len(chosen), 3)) for part in chosen[:3]) if guilty else ""
        return gather(self._context, Witness(self._context.rank, place.pp, place.dp, seen, samples))

    def _largest_loss(self, batch: Batch) -> str:
        """The micro-batch with the largest loss, and its samples."""
        place, parts = self._context.coordinate, batch.split(self._micro_size)
        losses = [(loss / max(float(parts[number].loss_mask_BS.sum()), 1.0), number) for number, loss in self._engine.losses()]
        mean, number = max(losses, default=(-math.inf, 0))
        samples = sample_origins(self._files, parts[number], most=SHARE)
        found = highest_loss(gather(self._context, Witness(self._context.rank, place.pp, place.dp, Seen(), samples, mean)))
        return f"largest on rank {found.rank}, made of {found.samples}"

    def warn(self, line: str) -> None:
        """To the rank's log, and where people look."""
        line = bounded(line)
        log.warning("%s", line)
        if self._tell is not None:
            self._tell(line)
