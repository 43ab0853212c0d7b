"""One JSON object to a conversation, a labelled text or a preference pair, whichever common form it has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .refusal import RecordRefusedError
from .template import Message

Label = str | int | bool
ClassKey = tuple[str, Label]

_SHARE_GPT = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """Messages (role, content and what else a template reads), and the JSON schemas of tools, if any."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


def conversation(record: Mapping[str, Any]) -> Conversation:
    """A record in one of the forms: `messages` [and `tools`]; `prompt` and `completion`, texts or lists of messages; `instruction`,
    `output` [`input`, `system`]; `conversations` of {from, value}.

    Raises:
        RecordRefusedError: none of them, or of wrong types.
    """
    if "messages" in record:
        found = _messages(record["messages"])
    elif "conversations" in record:
        found = _share_gpt(record["conversations"])
    elif "prompt" in record and "completion" in record:
        found = [*_side(record["prompt"], "user"), *_side(record["completion"], "assistant")]
    elif "instruction" in record and "output" in record:
        found = _instruction(record)
    else:
        raise RecordRefusedError("missing_key")
    if not any(message["role"] == "assistant" for message in found):
        raise RecordRefusedError("no_answer")
    return Conversation(found, _tools(record.get("tools")))


def preference(record: Mapping[str, Any]) -> tuple[Conversation, Conversation]:
    """The chosen and the rejected conversation: `prompt`, `chosen`, `rejected` as texts or lists of messages; without `prompt`, the
    messages that both begin with are the prompt.

    Raises:
        RecordRefusedError: not of this form, or both answers are equal.
    """
    if "chosen" not in record or "rejected" not in record:
        raise RecordRefusedError("missing_key")
    chosen, rejected = _side(record["chosen"], "assistant"), _side(record["rejected"], "assistant")
    if "prompt" in record:
        prompt = _side(record["prompt"], "user")
    else:
        differ = (i for i, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
        common = next(differ, min(len(chosen), len(rejected)))
        prompt, chosen, rejected = chosen[:common], chosen[common:], rejected[common:]
    if chosen == rejected:
        raise RecordRefusedError("equal_answers")
    if not prompt:
        raise RecordRefusedError("no_prompt")
    if not all(side and side[-1]["role"] == "assistant" for side in (chosen, rejected)):
        raise RecordRefusedError("no_answer")
    tools = _tools(record.get("tools"))
    return Conversation([*prompt, *chosen], tools), Conversation([*prompt, *rejected], tools)


def labelled(record: Mapping[str, Any], text_key: str, label_key: str) -> tuple[str, Label]:
    """A text and its label.

    Raises:
        RecordRefusedError: one is missing or of another type.
    """
    if text_key not in record or label_key not in record:
        raise RecordRefusedError("missing_key")
    text, label = record[text_key], record[label_key]
    if not isinstance(text, str) or not isinstance(label, str | int):
        raise RecordRefusedError("wrong_type")
    return text, label


def class_key(label: Label) -> ClassKey:
    """Tells True from 1, which are equal to Python; sorts."""
    return type(label).__name__, label


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RecordRefusedError("wrong_type" if value != [] else "no_answer")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RecordRefusedError("wrong_type")
        if not isinstance(message.get("content"), str | list | None):
            raise RecordRefusedError("wrong_type")
    return value


def _side(value: Any, role: str) -> list[Message]:
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value)


def _instruction(record: Mapping[str, Any]) -> list[Message]:
    parts = [record.get("system") or "", record["instruction"], record.get("input") or "", record["output"]]
    if not all(isinstance(part, str) for part in parts):
        raise RecordRefusedError("wrong_type")
    system, instruction, given, output = parts
    question = f"{instruction}\n\n{given}" if given else instruction
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": question}, {"role": "assistant", "content": output}]


def _share_gpt(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise RecordRefusedError("wrong_type")
    found = []
    for turn in value:
        if not isinstance(turn, dict) or turn.get("from") not in _SHARE_GPT or not isinstance(turn.get("value"), str):
            raise RecordRefusedError("wrong_type")
        found.append({"role": _SHARE_GPT[turn["from"]], "content": turn["value"]})
    return found


def _tools(value: Any) -> list[dict[str, Any]] | None:
    """A list, or the same as a JSON text, which is how tables hold it."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RecordRefusedError("broken_tools") from error
    if not value:
        return None
    if not isinstance(value, Sequence) or not all(isinstance(tool, dict) for tool in value):
        raise RecordRefusedError("wrong_type")
    return list(value)
