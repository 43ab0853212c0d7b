"""The sets that a config names: which sources, in which order. Imports no torch, so that a batch is explained without it."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..conf.schema import Config
from ..conf.sources import AnySource, SourceByEpochs, all_sources, sources, stages
from ..data.errors import DataError
from ..data.finetune.packed import PackedSet, PackedValidationSet, open_packed
from ..data.objectives.objective import Objective
from ..data.order.stages import Stage
from ..data.samples.dataset import TrainingSet, ValidationSet
from ..data.tokens.description import unwatched
from ..data.tokens.token_file import open_corpus
from .batch import BatchPlan
from .corpora import task_of
from .objectives import build_objective

AnyTrainingSet: TypeAlias = TrainingSet | PackedSet
AnyValidationSet: TypeAlias = ValidationSet | PackedValidationSet


def open_training(config: Config, tick: Callable[[], None] = unwatched) -> AnyTrainingSet:
    """The training set of a run: windows of text, or rows of packed examples where the corpora are conversations.

    Args:
        config: of the run.
        tick: a sign of progress after each block that has to be verified.

    Raises:
        DataError: a corpus is missing, damaged or too short, or its tokenizer lacks what the objective needs.
    """
    data, length = config.data, config.model.sequence_length
    paths = all_sources(sources(data.train), stages(data.stages))
    if task_of(paths[0]).kind == "chat":
        packed = [open_packed(path, tick=tick) for path in paths]
        order = order_stages(config, {path: file.num_rows for path, file in zip(paths, packed, strict=True)})
        return PackedSet([(file, order[0].weights[place]) for place, file in enumerate(packed)], sequence_length=length,
                         seed=config.train.seed, vocab_size=config.model.vocab_size, stages=order)
    files = [open_corpus(path, tick=tick) for path in paths]
    windows = {path: max(1, file.num_tokens // length) for path, file in zip(paths, files, strict=True)}
    order = order_stages(config, windows)
    return TrainingSet([(file, order[0].weights[place]) for place, file in enumerate(files)], sequence_length=length,
                       seed=config.train.seed, document_mask=data.document_mask, vocab_size=config.model.vocab_size, stages=order,
                       objective=build_objective(data.objective, config.model, paths))


def open_validation(path: str, part: str, *, sequence_length: int, document_mask: bool, vocab_size: int,
                    objective: Objective | None = None, tick: Callable[[], None] = unwatched) -> AnyValidationSet:
    """A part of a corpus in order.

    Args:
        path, part: of the corpus.
        sequence_length, document_mask, vocab_size: of the model and its training.
        objective: of text; None: the loss of each next token.
        tick: as in `open_training`.

    Raises:
        DataError: it is missing, damaged or too short, or of a task without a loss of next tokens.
    """
    kind = task_of(path).kind
    if kind not in ("text", "chat"):
        raise DataError(f"{path} is a corpus of task={kind}, and a model of next tokens has no loss on it",
                        do="name a corpus of text or of task=chat", file=path)
    if kind == "chat":
        return PackedValidationSet(open_packed(path, part, tick=tick), sequence_length=sequence_length, vocab_size=vocab_size)
    file = open_corpus(path, part=part, tick=tick)
    return ValidationSet(file, sequence_length=sequence_length, document_mask=document_mask, vocab_size=vocab_size, objective=objective)


def order_stages(config: Config, windows: dict[str, int]) -> list[Stage]:
    """The stages of a run's order: where each begins is the first sample of its step in a run that nothing disturbed.

    After a rewind, which passes samples over, a stage so begins as many steps earlier: the order stays a function of the sample's number.

    Args:
        config: of the run.
        windows: path -> samples of one epoch, of each source in the order of `all_sources`.
    """
    plan = BatchPlan.of_steps(config.batch)
    train, length = sources(config.data.train), config.model.sequence_length
    found = [Stage(0, weights_of(train, windows), length)]
    for stage in stages(config.data.stages):
        train, length = stage.train or train, stage.sequence_length or length
        here = Stage(plan.first_sample(stage.from_step), weights_of(train, windows), length)
        if here.first_sample == 0:
            found.clear()
        found.append(here)
    return found


def weights_of(train: Sequence[AnySource], windows: dict[str, int]) -> tuple[float, ...]:
    """The weight of each source of the run in one mixture; 0 where it is not in it."""
    named = {source.path: source.epochs * windows[source.path] if isinstance(source, SourceByEpochs) else source.weight for source in train}
    return tuple(named.get(path, 0.0) for path in windows)
