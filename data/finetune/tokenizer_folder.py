"""What a tokenizer's folder says about conversations: its chat template and the spellings of its special tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..tokenizer.tokenizer import Tokenizer, model_file
from .builtin_templates import BUILT_IN

OWN = "tokenizer"  # task.template=tokenizer: the one in the tokenizer's folder
CONFIG, TEMPLATE, MORE = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"
_CHOOSE = f"set task.template= to one of {', '.join(BUILT_IN)}, or to a file of yours"


def template_variables(path: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """bos_token, eos_token and the like, as a template sees them.

    Args:
        path: of the tokenizer: its folder or its file.
        tokenizer: its end of a document is eos_token where the folder names none.

    Raises:
        DataError: a JSON file there is damaged.
    """
    folder = model_file(path).parent
    end = (spelling for spelling, number in tokenizer.special_tokens.items() if number == tokenizer.end_of_document)
    found: dict[str, Any] = {"eos_token": next(end)}
    for name in ("special_tokens_map.json", CONFIG):
        for key, value in _read_json(folder / name).items():
            if key.endswith("_token") and (token := _spelling(value)) is not None:
                found[key] = token
            elif key == "additional_special_tokens" and isinstance(value, list):
                found[key] = [token for entry in value if (token := _spelling(entry)) is not None]
    return found


def template_sources(choice: str, path: Path) -> tuple[str, str]:
    """The template to use, and the one for conversations with tools.

    Args:
        choice: `tokenizer`, the name of a built-in template, or a file.
        path: of the tokenizer.

    Raises:
        DataError: there is none.
    """
    if choice in BUILT_IN:
        return BUILT_IN[choice], BUILT_IN[choice]
    if choice != OWN:
        return (text := _read_text(Path(choice).expanduser())), text
    folder = model_file(path).parent
    named = _own_templates(folder)
    if "default" not in named:
        holds = f"holds only the chat templates {', '.join(sorted(named))}" if named else "holds no chat template"
        raise DataError(f"the tokenizer's folder {folder} {holds}", do=_CHOOSE, file=folder)
    return named["default"], named.get("tool_use", named["default"])


def save_template(folder: Path, sources: Sequence[str], variables: dict[str, Any]) -> None:
    """Leaves the template, if there is one, and its variables beside the tokenizer of a corpus, where this module and transformers find
    them."""
    if sources:
        (folder / TEMPLATE).write_text(sources[0], encoding="utf-8")
    if len(set(sources)) == 2:  # the second is for conversations with tools
        (folder / MORE).mkdir()
        (folder / MORE / "tool_use.jinja").write_text(sources[1], encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps({**variables, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1) + "\n")


def _own_templates(folder: Path) -> dict[str, str]:
    """By name; transformers reads the file before the entry of the config."""
    named: dict[str, str] = {}
    entry = _read_json(folder / CONFIG).get("chat_template")
    if isinstance(entry, str):
        named["default"] = entry
    elif isinstance(entry, list):
        whole = [each for each in entry if isinstance(each, dict) and {"name", "template"} <= set(each)]
        named |= {str(each["name"]): str(each["template"]) for each in whole}
    if (folder / TEMPLATE).is_file():
        named["default"] = _read_text(folder / TEMPLATE)
    for file in sorted((folder / MORE).glob("*.jinja")):
        named[file.stem] = _read_text(file)
    return named


def _spelling(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}", do="copy the tokenizer's folder again", file=file) from error
    return found if isinstance(found, dict) else {}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the chat template {file} cannot be read: {reason}", do=_CHOOSE, file=file) from error
