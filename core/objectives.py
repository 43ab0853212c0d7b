"""The objective that a config names, with the ids that its corpora have for it. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace

from ..conf.objective_schema import ObjectiveConfig, ObjectiveName, TargetTokens
from ..conf.schema import ModelConfig
from ..data.errors import DataError
from ..data.objectives.fill_in_the_middle import FillInTheMiddle
from ..data.objectives.masked_tokens import MaskedTokens
from ..data.objectives.objective import Objective
from ..data.objectives.span_corruption import SpanCorruption
from ..data.objectives.vocabulary import Vocabulary, vocabulary_of

FILL_IN_THE_MIDDLE = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
MASK = ("[MASK]",)


def build_objective(wanted: ObjectiveConfig, model: ModelConfig, paths: Sequence[str]) -> Objective | None:
    """The objective of a run; None: each next token.

    Args:
        wanted: `data.objective`, checked.
        model: its vocabulary must hold the sentinels; its sequence length says how many there are.
        paths: of the training corpora.

    Raises:
        DataError: a tokenizer lacks a sentinel, corpora disagree about one, or the model's vocabulary does not hold it.
    """
    if wanted.name is ObjectiveName.causal:
        return None
    return _build(wanted, model, [vocabulary_of(path) for path in paths])


def made_objective(wanted: ObjectiveConfig, model: ModelConfig) -> Objective | None:
    """The objective over made tokens, which no tokenizer names: its sentinels are the last ids of the vocabulary, and 0 ends a document.

    Args:
        wanted, model: as `build_objective`.

    Raises:
        DataError: the vocabulary has too few ids.
    """
    if wanted.name is ObjectiveName.causal:
        return None
    count = len(FILL_IN_THE_MIDDLE) if wanted.name is ObjectiveName.fill_in_the_middle else model.sequence_length // 2
    sentinels = list(range(model.vocab_size - count, model.vocab_size))
    return _build(replace(wanted, sentinels=sentinels), model, [Vocabulary(path="made", size=0, end_of_document=0, special_tokens={})])


def _build(wanted: ObjectiveConfig, model: ModelConfig, vocabularies: Sequence[Vocabulary]) -> Objective:
    end = _agreed("the end of a document", {each.path: (each.end_of_document,) for each in vocabularies})[0]
    if wanted.name is ObjectiveName.span_corruption:
        return _span_corruption(wanted, model, vocabularies, end)
    if wanted.name is ObjectiveName.masked_tokens:
        (mask,) = _sentinels(model, vocabularies, wanted.sentinels or MASK)
        special = sorted({*vocabularies[0].special_tokens.values(), mask, end} - {-1})
        return MaskedTokens(mask=mask, special=tuple(special), vocab_size=vocabularies[0].size or model.vocab_size,
                            noise_density=wanted.noise_density)
    prefix, suffix, middle = _sentinels(model, vocabularies, wanted.sentinels or FILL_IN_THE_MIDDLE)
    return FillInTheMiddle(prefix=prefix, suffix=suffix, middle=middle, end_of_document=end, rate=wanted.rate, spm_rate=wanted.spm_rate,
                           middle_only=wanted.targets is TargetTokens.middle)


def validation_objective(wanted: ObjectiveConfig, model: ModelConfig, path: str) -> Objective | None:
    """As `build_objective` for the corpus of validation. Fill in the middle is judged by each next token of plain text: that it keeps that
    loss is what its paper claims, and what makes runs with and without it comparable.

    Args:
        wanted, model: as `build_objective`.
        path: of the corpus.

    Raises:
        DataError: as `build_objective`.
    """
    return None if wanted.name is ObjectiveName.fill_in_the_middle else build_objective(wanted, model, [path])


def _span_corruption(wanted: ObjectiveConfig, model: ModelConfig, vocabularies: Sequence[Vocabulary], end: int) -> SpanCorruption:
    """With as many sentinels as a row may need."""
    length = model.sequence_length
    bare = SpanCorruption(sentinels=(), end_of_document=end, noise_density=wanted.noise_density, mean_span_length=wanted.mean_span_length)
    needed = bare.most_spans(length)
    names = wanted.sentinels or [f"<extra_id_{number}>" for number in range(needed)]
    if len(names) < needed:
        raise DataError(f"data.objective.sentinels has {len(names)} entries, but a document may have {needed} spans (model.sequence_length="
                        f"{length}, noise_density={wanted.noise_density}, mean_span_length={wanted.mean_span_length})",
                        do=f"name {needed} special tokens, or raise data.objective.mean_span_length")
    return replace(bare, sentinels=_sentinels(model, vocabularies, names[:needed]))


def _sentinels(model: ModelConfig, vocabularies: Sequence[Vocabulary], names: Sequence[str | int]) -> tuple[int, ...]:
    """Their ids, the same in all corpora and within the model's vocabulary."""
    found = _agreed("the sentinels", {each.path: each.ids(names) for each in vocabularies})
    if max(found) >= model.vocab_size:
        raise DataError(f"data.objective needs the id {max(found)}, but model.vocab_size={model.vocab_size}",
                        do=f"set model.vocab_size={max(found) + 1} or more")
    return found


def _agreed(what: str, by_path: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    first, *others = by_path
    for other in others:
        if by_path[other] != by_path[first]:
            raise DataError(f"{first} and {other} have other ids for {what} of data.objective: {by_path[first]} and {by_path[other]}",
                            do="prepare all corpora with one tokenizer", file=other)
    return by_path[first]
