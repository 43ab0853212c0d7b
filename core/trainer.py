"""The training loop: each sentence of it is one function."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from ..conf.schema import Config
from ..data.samples.loader import Loader
from ..parallel.context import ParallelContext
from .audit import SampleLog
from .batch import BatchPlan
from .checkpoint.checkpointer import Checkpointer
from .console import Console
from .device import peak_memory_bytes
from .engine.build import Built
from .engine.engine import StepResult
from .errors import Preempted
from .evaluation import EvaluationResult, EvaluationStoppedError, Monitor, evaluate
from .inputs import micro_batch
from .judge import Judge
from .metrics import MetricsLog, StepMetrics, ValidationMetrics
from .oversight import Oversight
from .pace import Pace
from .provenance import provenance
from .pulse import Phase
from .resume import Resumed
from .rewind import rewind
from .saver import Saver
from .step_log import StepLog
from .training_data import AnyValidationSet

STOP = 0  # place of the vote for a stop among the votes of a step
SAVES = slice(1, 3)  # places of the votes on the save under way: busy, failed


@dataclass
class Progress:
    """How far the run is: what a checkpoint must say to continue exactly."""

    step: int = 0
    samples_seen: int = 0


@dataclass
class Watch:
    """Who is told of each step; only rank 0 has one."""

    metrics: MetricsLog
    console: Console
    flops_per_token: float
    peak_flops: float | None  # of all devices together; None where it is not known

    def utilization(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilization, 0 to 1."""
        return None if self.peak_flops is None else tokens_per_second * self.flops_per_token / self.peak_flops


@dataclass
class Trainer:
    """One run from its next step to its last.

    Args:
        config: of the run.
        built: the engine and its state.
        context: the process groups.
        plan: how the global batch is divided.
        loader: this rank's samples of each step.
        validation: None where the run has no validation set.
        checkpointer: saves; every rank has one.
        agreed: the part of the config that a resume must not change.
        judge: of each step's numbers.
        restore: fills the engine from the newest whole checkpoint, of which there is one; collective.
        watch: None but on rank 0.
        audit: where this rank's samples are written; None without `data.audit`, and on all but one rank of a tensor group.
        oversight: of the process around this one.
        device: of this rank.
        progress: where the run is.
    """

    config: Config
    built: Built
    context: ParallelContext
    plan: BatchPlan
    loader: Loader
    validation: AnyValidationSet | None
    checkpointer: Checkpointer
    agreed: dict[str, Any]
    judge: Judge
    restore: Callable[[], Resumed]
    watch: Watch | None
    audit: SampleLog | None
    oversight: Oversight
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    saver: Saver = field(init=False)
    pace: Pace = field(init=False)
    _owed: bool = False  # a checkpoint that was due and had to wait

    def __post_init__(self) -> None:
        logs: list[StepLog] = [self.audit] if self.audit is not None else []
        if self.watch is not None:
            logs.append(self.watch.metrics)
        self.pace = Pace(self.context.topology, self.context.rank, waited_seconds=self.oversight.waited_seconds,
                         tell=None if self.watch is None else self.watch.console.line)
        self.saver = Saver(self.checkpointer, tell=None if self.watch is None else self.watch.console.line, logs=logs)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Rank 0's console and metrics, open."""
        if self.watch is None:
            yield
            return
        with self.watch.console, self.watch.metrics:
            yield

    @property
    def last_step(self) -> int:
        """Where this start of the run ends."""
        return self.config.train.stop_at or self.config.train.steps

    def run(self) -> str:
        """Trains to the last step; returns the reason for `exit.json`.

        Raises:
            Preempted: asked to stop; the checkpoint is committed.
        """
        saved = self.progress.step  # nothing new to save yet
        stopping, owes = self._on_any_rank(self.oversight.stop_requested(), self._validation_missing())
        if owes and not stopping:  # the last start was stopped before it could
            stopping = self._stopped_evaluating()
            owes = stopping
        while self.progress.step < self.last_step and not stopping:
            result = self.train_one_step()
            stopping = result.votes[STOP] > 0
            self.saver.after_step(result.votes[SAVES])
            if self.judge.wants_rewind() and rewind(self):
                saved = self.progress.step
                continue
            if self._audit_due():
                self.built.replicas.check()
            owes = self._evaluation_due()
            if owes and not stopping:  # a stop must not wait for it: the next start makes up for it
                stopping = self._stopped_evaluating()
                owes = stopping
            if (self._checkpoint_due() or stopping) and self.save(last=stopping or self.progress.step == self.last_step):
                saved = self.progress.step
            if self.watch is not None and self.progress.step == self.last_step:
                self.watch.console.stage_memory(result.stage_memory_bytes)
        if saved < self.progress.step:
            self.save(last=True)
        self.saver.finish()
        if stopping and (owes or self.progress.step < self.last_step):
            where = f"after step {self.progress.step}; its checkpoint is saved" if self.progress.step else "before the first step"
            raise Preempted(f"stopped by a signal {where}", do="start the same command again to go on")
        return "completed" if self.progress.step >= self.config.train.steps else "stop_at"

    def train_one_step(self) -> StepResult:
        """The next step, recorded by rank 0."""
        begin = time.perf_counter()
        self.oversight.pulse.enter(Phase.step, self.progress.step)
        self.pace.begin()
        step, rate = self.progress.step, self.built.engine.learning_rate
        batch = self.loader.batch(step)
        groups = self.context.layer_groups(context_attention=self.config.parallel.context_attention.value)
        micros = [micro_batch(part, step=step, document_mask=self.config.data.document_mask, device=self.device, groups=groups)
                  for part in batch.split(self.config.batch.micro_size)]
        result = self.built.engine.train_step(micros, votes=[float(self.oversight.stop_requested()), *self.saver.votes(),
                                                              *self.pace.votes()])
        self.pace.end(result.votes[-self.context.topology.world_size :])
        self.oversight.fence_lately()  # this process may have been frozen while a newer attempt took the folder over
        self.judge.after_step(result, batch, step=step + 1)
        self.progress.step += 1
        self.progress.samples_seen += self.plan.size(step)
        if self.audit is not None:
            self.audit.record(batch, step=self.progress.step, rank=self.context.rank)
        if self.watch is not None:
            self._record(result, rate=rate, size=len(batch.samples_B) * self.plan.dp, seconds=time.perf_counter() - begin)
        return result

    def _record(self, result: StepResult, *, rate: float, size: int, seconds: float) -> None:
        assert self.watch is not None
        length = self.config.model.sequence_length
        tokens_per_second = size * length / seconds
        metrics = StepMetrics(
            step=self.progress.step, samples_seen=self.progress.samples_seen, tokens_seen=self.progress.samples_seen * length,
            loss=result.loss, grad_norm=result.grad_norm, learning_rate=rate, step_seconds=seconds,
            tokens_per_second=tokens_per_second, memory_bytes=peak_memory_bytes(self.device),
            model_flops_utilization=self.watch.utilization(tokens_per_second), stage_memory_bytes=result.stage_memory_bytes,
            routing=result.routing, skipped=bool(result.non_finite), overflow=result.overflow,
        )
        self.watch.metrics.record(metrics)
        self.watch.console.step(metrics)

    def evaluate(self) -> EvaluationResult:
        """Validation loss, recorded by rank 0.

        Raises:
            EvaluationStoppedError: a rank was asked to stop.
        """
        assert self.validation is not None
        self.oversight.pulse.enter(Phase.evaluation, self.progress.step)
        with self.built.engine.evaluating() as model:
            result = evaluate(model, self.validation, micro_size=self.config.batch.micro_size, samples=self.config.evaluation.samples,
                              data_group=self.context.data, document_mask=self.config.data.document_mask, device=self.device,
                              monitor=Monitor(stop=lambda: self._on_any_rank(self.oversight.stop_requested())[0]))
        self.oversight.fence_lately()
        if self.watch is not None:
            metrics = ValidationMetrics(step=self.progress.step, validation_loss=result.loss, validation_perplexity=result.perplexity)
            self.watch.metrics.record(metrics)
            self.watch.console.validation(metrics)
        return result

    def _stopped_evaluating(self) -> bool:
        """Evaluates; whether a stop cut it short."""
        try:
            self.evaluate()
        except EvaluationStoppedError:
            return True
        return False

    def save(self, *, last: bool) -> bool:
        """Saves this step, every rank its part; returns whether it is saved, or on its way.

        Args:
            last: the run ends here: wait for it, and a failure is an error.
        """
        self.oversight.pulse.enter(Phase.save, self.progress.step)
        self.built.replicas.check()  # nothing that has drifted apart is ever committed
        extra = (self.built.state.counters() | {"health": self.judge.health.state()}
                 | provenance(self.config, world_size=self.context.topology.world_size))
        return self.saver.save(step=self.progress.step, samples_seen=self.progress.samples_seen, config=self.agreed, extra=extra,
                               fragments=self.built.state.fragments(), must=last)

    def _checkpoint_due(self) -> bool:
        """A save that falls into a row of skipped steps waits for its end: it would push an older checkpoint out for nothing new."""
        interval = self.config.checkpoint.interval
        due = self._owed or (interval > 0 and self.progress.step % interval == 0)
        self._owed = due and not self.judge.health.settled
        return due and not self._owed

    def _audit_due(self) -> bool:
        interval = self.config.health.audit_interval
        return interval > 0 and self.progress.step % interval == 0

    def _evaluation_due(self) -> bool:
        interval = self.config.evaluation.interval
        if self.validation is None or self.progress.step == 0:
            return False
        return self.progress.step == self.last_step or (interval > 0 and self.progress.step % interval == 0)

    def _validation_missing(self) -> bool:
        """Whether rank 0 finds no line of an evaluation that was due at the step from which this start goes on."""
        return self.watch is not None and self._evaluation_due() and not self.watch.metrics.validated(self.progress.step)

    def _on_any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each flag is raised on some rank; collective."""
        raised = torch.tensor(flags, dtype=torch.float32, device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(flag > 0 for flag in raised.tolist())
