"""The objective that a config names, with the ids that its corpora have for it. Imports no torch."""

from collections.abc import Sequence

from ..conf.objective_schema import ObjectiveName, TargetTokens
from ..conf.schema import Config
from ..data.errors import DataError
from ..data.objectives.fill_in_the_middle import FillInTheMiddle
from ..data.objectives.objective import Objective
from ..data.objectives.vocabulary import Vocabulary, vocabulary_of

FILL_IN_THE_MIDDLE = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def build_objective(config: Config, paths: Sequence[str]) -> Objective | None:
    """The objective of a run; None: each next token.

    Args:
        config: of the run, checked.
        paths: of its training corpora.

    Raises:
        DataError: a tokenizer lacks a sentinel, corpora disagree about one, or the model's vocabulary does not hold it.
    """
    wanted = config.data.objective
    if wanted.name is ObjectiveName.causal:
        return None
    vocabularies = [vocabulary_of(path) for path in paths]
    end = _agreed("the end of a document", {each.path: (each.end_of_document,) for each in vocabularies})[0]
    prefix, suffix, middle = _sentinels(config, vocabularies, wanted.sentinels or FILL_IN_THE_MIDDLE)
    return FillInTheMiddle(prefix=prefix, suffix=suffix, middle=middle, end_of_document=end, rate=wanted.rate, spm_rate=wanted.spm_rate,
                           middle_only=wanted.targets is TargetTokens.middle)


def _sentinels(config: Config, vocabularies: Sequence[Vocabulary], names: Sequence[str | int]) -> tuple[int, ...]:
    """Their ids, the same in all corpora and within the model's vocabulary."""
    found = _agreed("the sentinels", {each.path: each.ids(names) for each in vocabularies})
    if max(found) >= config.model.vocab_size:
        raise DataError(f"data.objective needs the id {max(found)}, but model.vocab_size={config.model.vocab_size}",
                        do=f"set model.vocab_size={max(found) + 1} or more")
    return found


def _agreed(what: str, by_path: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    first, *others = by_path
    for other in others:
        if by_path[other] != by_path[first]:
            raise DataError(f"{first} and {other} have other ids for {what} of data.objective: {by_path[first]} and {by_path[other]}",
                            do="prepare all corpora with one tokenizer", file=other)
    return by_path[first]
