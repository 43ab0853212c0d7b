"""A conversation to token ids with a loss mask, at most so long."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tokenizer.tokenizer import Tokenizer
from .chat_encoder import ChatEncoder, Spans
from .records import Conversation
from .refusal import RecordRefusedError
from .template import ChatTemplate, Message

TOO_LONG = "example_too_long"  # not `too_long`: that is a line too long to be read
OVERLONG = ("drop", "error", "cut_prompt_start", "cut_prompt_end", "cut_end")


@dataclass(frozen=True)
class Example:
    """ids, int64 (n,); mask, uint8 (n,): 1 where the token is learned; text: what was encoded."""

    ids: np.ndarray
    mask: np.ndarray
    text: str


class ExampleMaker:
    """Renders, encodes and masks conversations.

    Args:
        template: for conversations without tools.
        tool_template: for those with.
        encoder: of the tokenizer.
        tokenizer: for texts that no template renders.
        last_only: learn only the last answer of a conversation; else every one.
    """

    def __init__(self, template: ChatTemplate, tool_template: ChatTemplate, encoder: ChatEncoder, tokenizer: Tokenizer, *,
                 last_only: bool) -> None:
        self._template = template
        self._tool_template = tool_template
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._last_only = last_only

    def example(self, conversation: Conversation) -> Example:
        """The ids of transformers' `apply_chat_template`, and which of them are answers.

        Raises:
            RecordRefusedError: the template refuses it, or its answers cannot be told from the rest.
        """
        template = self._tool_template if conversation.tools else self._template
        rendered = template.render(conversation.messages, conversation.tools)
        _refuse_surrogates(rendered.text)
        spans = self._encoder.encode(rendered.text)
        if template.marks_answers:
            ranges: Sequence[tuple[int, int]] = rendered.generated[-1:] if self._last_only else rendered.generated
        else:
            ranges = self._found_answers(template, conversation, rendered.text, spans)
        mask = spans.covering(ranges)
        if not mask[1:].any():  # nothing comes before the first token, so it is never learned
            raise RecordRefusedError("no_answer")
        return Example(spans.ids, mask, rendered.text)

    def plain(self, text: str) -> Example:
        """A text and the end-of-document id; nothing of it is an answer.

        Raises:
            RecordRefusedError: it is empty, or no text.
        """
        if not text:
            raise RecordRefusedError("empty")
        _refuse_surrogates(text)
        ids = np.array([*self._tokenizer.encode(text), self._tokenizer.end_of_document], dtype=np.int64)
        return Example(ids, np.zeros(len(ids), dtype=np.uint8), text)

    def _found_answers(self, template: ChatTemplate, conversation: Conversation, text: str, spans: Spans) -> list[tuple[int, int]]:
        """Ranges of the answers of a template that does not mark them: what a turn adds to the rendering of all before it."""
        messages = conversation.messages
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        ranges = []
        for number in turns[-1:] if self._last_only else turns:
            start = self._prefix(template, conversation, messages[:number], text, add_generation_prompt=True)
            last = number == len(messages) - 1
            end = len(text) if last else self._prefix(template, conversation, messages[: number + 1], text, add_generation_prompt=False)
            before = self._encoder.encode(text[:start]).ids
            if not np.array_equal(before, spans.ids[: len(before)]):
                raise RecordRefusedError("answer_joins_prompt")  # one token holds the prompt's end and the answer's start
            ranges.append((start, end))
        return ranges

    @staticmethod
    def _prefix(template: ChatTemplate, conversation: Conversation, messages: Sequence[Message], text: str, *,
                add_generation_prompt: bool) -> int:
        """Length of the rendering of the first messages, which must be what the whole begins with."""
        part = template.render(messages, conversation.tools, add_generation_prompt=add_generation_prompt).text if messages else ""
        if not text.startswith(part):
            raise RecordRefusedError("template_rewrites_turns")
        return len(part)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\ud800" is legal JSON, but no text
        raise RecordRefusedError("lone_surrogate") from error


CAUSES = {  # of refusals that say little by themselves: what to do about them
    "template_rewrites_turns": "the chat template renders earlier turns in another way once later ones follow: put {% generation %} around "
                               "its answers, or set task.loss=last",
    "answer_joins_prompt": "a token lies across the start of an answer: put {% generation %} around the template's answers",
    TOO_LONG: "raise task.sequence_length, or set task.overlong=drop or one of cut_prompt_start, cut_prompt_end, cut_end",
    "missing_key": "no form of the task: see the keys of `hexareme prepare --help` (messages, prompt and completion, ...)",
}


def fit(examples: Sequence[Example], most: int, policy: str) -> tuple[list[Example], str]:
    """Examples of at most `most` tokens; all of them lose as many, so that a pair keeps one prompt.

    Args:
        examples: an example, or a pair with the same prompt.
        most: tokens.
        policy: one of OVERLONG.

    Returns:
        The examples, none if they go; and what was done: "", "cut" or "dropped".

    Raises:
        RecordRefusedError: policy `error`.
    """
    excess = max(len(example.ids) for example in examples) - most
    if excess <= 0:
        return list(examples), ""
    if policy == "error":
        raise RecordRefusedError(TOO_LONG)
    cut = [part for example in examples if (part := _cut(example, excess, most, policy)) is not None]
    return (cut, "cut") if len(cut) == len(examples) else ([], "dropped")


def _cut(example: Example, excess: int, most: int, policy: str) -> Example | None:
    """What is left; None if that is not worth learning."""
    count, learns = len(example.ids), bool(example.mask.any())
    answer = int(example.mask.argmax()) if learns else count - 1  # a text that is classified: all but its end
    if policy == "cut_end":
        kept = np.arange(min(most, count))
    elif policy in ("cut_prompt_start", "cut_prompt_end") and excess < answer:  # one token stays, for the answer's first to follow
        gone = 0 if policy == "cut_prompt_start" else answer - excess
        kept = np.delete(np.arange(count), np.s_[gone : gone + excess])
    else:
        return None
    cut = Example(example.ids[kept], example.mask[kept], example.text)
    return cut if cut.mask[1:].any() or not learns else None
