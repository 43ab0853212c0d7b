"""Chat templates: Jinja in a sandbox, rendered exactly as transformers' `apply_chat_template` renders them.

The environment (sandbox, filters, `{% generation %}`) follows transformers 5, utils/chat_template_utils.py,
`_cached_compile_jinja_template`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .refusal import RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.sandbox import SandboxedEnvironment

Message = dict[str, Any]

_REASONING = ("reasoning_content", "thinking", "reasoning")  # spellings of one field; templates read the first, gpt-oss' the second
MOST_CAUSE = 100  # characters of a template's own complaint


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the character ranges (start, end) of its `{% generation %}` blocks."""

    text: str
    generated: tuple[tuple[int, int], ...]


class ChatTemplate:
    """One compiled template.

    Args:
        source: Jinja.
        variables: what it sees beside the messages: bos_token, eos_token ... as the tokenizer's folder names them.
        today: what `strftime_now` tells; None: a template that asks is refused, because the same input must give the same corpus.
        file: where the source comes from, for messages.

    Raises:
        DataError: no valid Jinja.
    """

    def __init__(self, source: str, *, variables: Mapping[str, Any], today: date | None = None, file: str = "") -> None:
        from jinja2 import TemplateSyntaxError

        self.source = source
        self._variables = dict(variables)
        self._tracker = _Tracker()
        self.marks_answers = "endgeneration" in source
        try:
            self._template = _environment(self._tracker, today).from_string(source)
        except TemplateSyntaxError as error:
            message = f"the chat template {file or '(of the tokenizer)'} is no valid Jinja: line {error.lineno}: {error.message}"
            raise DataError(message, do="mend it, or choose another with task.template=", file=file or None) from error

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, *,
               add_generation_prompt: bool = False) -> Rendered:
        """A conversation as text.

        Args:
            messages: role, content and what else the template reads; keys whose value is null are left out.
            tools: their JSON schemas.
            add_generation_prompt: end where an answer would begin.

        Raises:
            RecordRefusedError: the template refuses the conversation, or cannot digest it.
        """
        from jinja2 import TemplateError

        chat = [_with_reasoning({key: value for key, value in message.items() if value is not None}) for message in messages]
        try:
            with self._tracker.watching() as watched:
                for piece in self._template.generate(messages=chat, tools=tools, documents=None,
                                                     add_generation_prompt=add_generation_prompt, **self._variables):
                    watched.add(piece)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError, IndexError, RecursionError) as error:
            # whatever a foreign template does with a foreign record: it is this record that cannot be used
            raise RecordRefusedError(f"template: {' '.join(str(error).split())[:MOST_CAUSE]}") from error
        return Rendered("".join(watched.pieces), tuple(watched.ranges))


class _Watched:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.length = 0
        self.ranges: list[tuple[int, int]] = []

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.length += len(piece)


class _Tracker:
    """Where `{% generation %}` blocks lie in what is being rendered."""

    def __init__(self) -> None:
        self._watched = _Watched()

    @contextmanager
    def watching(self) -> "Iterator[_Watched]":
        self._watched = _Watched()
        yield self._watched

    def block(self, text: str) -> str:
        """A block of this text follows what was rendered so far."""
        watched = self._watched
        watched.ranges.append((watched.length, watched.length + len(text)))
        return text


def _with_reasoning(message: Message) -> Message:
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _environment(tracker: _Tracker, today: date | None) -> "SandboxedEnvironment":
    from jinja2 import ext, nodes, utils
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """`{% generation %} ... {% endgeneration %}`: what is inside is an answer."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Callable[[], str]) -> str:
            return tracker.block(caller())

    class Namespace(utils.Namespace):
        """Without names that lead to Python's own internals."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"a namespace holds no {name!r}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        if today is None:
            raise TemplateError("asks for today's date: set task.date=YYYY-MM-DD")
        return today.strftime(form)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now, "namespace": Namespace}
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
             sort_keys: bool = False) -> str:
    """Jinja's own filter writes < and > for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
