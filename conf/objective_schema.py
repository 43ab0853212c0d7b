"""What a model is asked to predict."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .fields import items, number, text


class ObjectiveName(StrEnum):
    causal = "causal"
    fill_in_the_middle = "fill_in_the_middle"
    span_corruption = "span_corruption"
    masked_tokens = "masked_tokens"


class TargetTokens(StrEnum):
    all = "all"
    middle = "middle"


@dataclass(kw_only=True)
class ObjectiveConfig:
    """Changes of the training samples, each within its documents; keyed by train.seed and the sample's number."""

    name: ObjectiveName = text(ObjectiveName.causal, help="causal: each next token; or fill_in_the_middle, span_corruption, masked_tokens")
    sentinels: list[Any] = items(help="special tokens of the corpus' tokenizer, or ids. fill_in_the_middle: those before prefix, suffix "
                                 "and middle (empty: <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>); span_corruption: one a span (empty: "
                                 "<extra_id_0>, <extra_id_1>, ...); masked_tokens: the mask (empty: [MASK])")
    rate: float = number(0.5, least=0, most=1, help="fill_in_the_middle: chance of a document to be changed")
    spm_rate: float = number(0.5, least=0, most=1, help="fill_in_the_middle: chance of a changed document to have its suffix first")
    targets: TargetTokens = text(TargetTokens.all, help="fill_in_the_middle: what a changed document's loss counts: all, or the middle")
    noise_density: float = number(0.15, above=0, below=1, help="span_corruption, masked_tokens: share of tokens to predict")
    mean_span_length: float = number(3.0, least=1, help="span_corruption: mean tokens of a span")
