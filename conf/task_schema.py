"""The keys of `hexareme prepare` for fine-tuning data: what a record is, and how it becomes an example."""

from dataclasses import dataclass
from enum import StrEnum

from .fields import number, text


class TaskKind(StrEnum):
    text = "text"
    chat = "chat"
    classification = "classification"
    preference = "preference"


class LearnedTurns(StrEnum):
    answers = "answers"
    last = "last"


class Overlong(StrEnum):
    drop = "drop"
    error = "error"
    cut_prompt_start = "cut_prompt_start"
    cut_prompt_end = "cut_prompt_end"
    cut_end = "cut_end"


@dataclass(kw_only=True)
class TaskConfig:
    kind: TaskKind = text(TaskKind.text, help="what a record is: text to go on from; chat: messages, conversations, prompt and completion, "
                          "or instruction [input] output; classification: text and label; preference: [prompt] chosen rejected")
    template: str = text("tokenizer", help="chat template: tokenizer: the one in its folder; chatml, plain, completion (prompt and answer "
                         "end to end): built in; or a Jinja file")
    loss: LearnedTurns = text(LearnedTurns.answers, help="what is learned: every answer of a conversation, or only the last")
    sequence_length: int = number(2048, least=2, help="tokens of a packed row, which model.sequence_length must equal; longer ones: see "
                                  "task.overlong")
    overlong: Overlong = text(Overlong.drop, help="longer examples: drop (counted), error, cut the prompt at its start or its end (drop "
                              "if the answer alone is too long), or cut_end: the example at its end")
    label_key: str = text("label", help="classification: key of the label; that of the text is text_key")
    stratified: bool = text(True, help="classification: held_out is taken of each class; false: of all")
    date: str = text("", help="YYYY-MM-DD that a template gets which asks for today; empty: such a template is refused")
