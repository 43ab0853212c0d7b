"""What decides the bytes of a fine-tuning corpus, besides its input."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ..errors import DataError
from ..tokenizer.tokenizer import load_tokenizer
from .chat_encoder import load_chat_encoder
from .examples import ExampleMaker
from .template import ChatTemplate
from .tokenizer_folder import OWN, template_sources, template_variables


@dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """The task, and how its records become examples.

    Args:
        kind: chat, classification or preference.
        tokenizer_kind: `huggingface` or `sentencepiece_file`.
        tokenizer_path: the existing tokenizer.
        special_tokens: added to the tokenizer where it lacks them.
        template: `tokenizer`, the name of a built-in one, or a file.
        last_only: learn only the last answer of a conversation.
        sequence_length: S; an example of up to S + 1 tokens fits a row of S inputs.
        overlong: what happens to longer ones, one of `examples.OVERLONG`.
        text_key, label_key: of classification.
        stratified: hold out the same part of every class.
        today: YYYY-MM-DD for templates that ask for the date; empty: those are refused.
        held_out, reject_limit: as in `prepare`.
    """

    kind: str
    tokenizer_kind: str
    tokenizer_path: str
    special_tokens: tuple[str, ...] = ()
    template: str = "tokenizer"
    last_only: bool = False
    sequence_length: int = 2048
    overlong: str = "drop"
    text_key: str = "text"
    label_key: str = "label"
    stratified: bool = True
    today: str = ""
    held_out: float = 0.01
    reject_limit: float = 0.001


def example_maker(folder: Path, recipe: TaskRecipe) -> ExampleMaker:
    """The template and the encoder of a recipe, put together.

    Args:
        folder: the tokenizer as it was saved for the corpus, with its template.
        recipe: the rest.

    Raises:
        DataError: the template cannot be used.
    """
    tokenizer = load_tokenizer(folder)
    variables = template_variables(folder, tokenizer)
    sources = ("", "") if recipe.kind == "classification" else template_sources(OWN, folder)
    template, tool_template = (ChatTemplate(text, variables=variables, today=day(recipe.today), file=recipe.template) for text in sources)
    return ExampleMaker(template, tool_template, load_chat_encoder(folder, tokenizer, variables), tokenizer, last_only=recipe.last_only)


def day(text: str) -> date | None:
    """A date, or None for an empty text.

    Raises:
        DataError: not of the form YYYY-MM-DD.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise DataError(f"task.date={text} is no date", do="write it as in task.date=2025-01-31") from error
