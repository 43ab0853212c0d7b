"""What a saved model is judged on: the corpus, and which of its tokens, as validation during the training does it. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..conf.compose import load_yaml
from ..conf.objective_schema import ObjectiveConfig
from ..conf.schema import ModelConfig
from .corpora import task_of, validation_source
from .objectives import validation_objective
from .training_data import AnyValidationSet, open_validation

EACH_TOKEN, ANSWERS = "each next token", "answers"


@dataclass(frozen=True)
class Judged:
    """An opened part of a corpus.

    Args:
        windows: in order.
        document_mask: attention stays inside a document; examples that share a row never see each other, however the model was trained.
        targets: what counts in the loss, in words.
    """

    windows: AnyValidationSet
    document_mask: bool
    targets: str


def judged_source(run: Path, *, trained_on: str, corpus: str, part: str) -> tuple[str, str]:
    """Path and part. Where neither is asked for, those that the run validates on; without validation, what its first corpus holds out.

    Args:
        run: its folder, if it is at hand.
        trained_on: its first corpus.
        corpus: asked for; empty: not.
        part: asked for.

    Raises:
        ConfigError: the run's config.yaml cannot be read.
        DataError: the corpus is missing.
    """
    file = run / "config.yaml"
    if not corpus and part == "validation" and file.is_file():
        return validation_source(load_yaml(file).data) or (trained_on, part)
    return corpus or trained_on, part


def open_judged(corpus: str, part: str, *, objective: ObjectiveConfig, model: ModelConfig, document_mask: bool,
                first: Callable[[Callable[[], AnyValidationSet]], AnyValidationSet]) -> Judged:
    """A part of a corpus with the targets of the training.

    Args:
        corpus, part: as `judged_source` gives them.
        objective, model, document_mask: of the training.
        first: lets one rank open it first, which verifies it for all.

    Raises:
        DataError: missing, damaged, too short, of a task without such a loss; or its tokenizer lacks what the objective needs.
    """
    packed = task_of(corpus).kind == "chat"
    chosen = None if packed else validation_objective(objective, model, corpus)
    windows = first(lambda: open_validation(corpus, part, sequence_length=model.sequence_length, document_mask=document_mask,
                                            vocab_size=model.vocab_size, objective=chosen))
    targets = ANSWERS if packed else EACH_TOKEN if chosen is None else f"targets of {objective.name.value}"
    return Judged(windows, document_mask or packed, targets)
