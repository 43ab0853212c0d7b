"""Masks what looks like a secret before a config leaves the machine. Pure."""

import re
from typing import Any

MASK = "***"

_WORDS = {"key", "apikey", "token", "password", "passwd", "passphrase", "secret", "credential", "credentials", "auth", "authorization"}
_WORD_EDGE = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])")  # snake_case, kebab-case, camelCase
_URL_USER = re.compile(r"(?<=://)[^/\s@]+(?:@[^/\s@]+)*(?=@)")  # user:password@ (the last @ before the path ends it)
# Tokens that announce themselves: Hugging Face, GitHub, AWS, OpenAI and alike, GitLab, Slack, W&B.
_TOKEN = re.compile(r"\b(?:hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|A[KS]IA[0-9A-Z]{16}|sk-[\w-]{16,}|glpat-[\w-]{16,}|"
                    r"xox[abprs]-[\w-]{10,}|wandb_v1_\w{16,})")


def without_secrets(value: Any) -> Any:
    """A copy of a config in which secrets read `***`.

    Masked are the values of keys that contain a word such as key, token, password or secret, the user part of URLs, and tokens that
    announce themselves by their prefix. Words are whole: `tokens`, `tokenizer` and `num_key_value_heads: 8` (a number) stay.

    Args:
        value: nested dictionaries and lists of plain values.
    """
    if isinstance(value, dict):
        return {name: MASK if _is_secret(str(name), inner) else without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    if isinstance(value, str):
        return _TOKEN.sub(MASK, _URL_USER.sub(MASK, value))
    return value


def _is_secret(name: str, value: Any) -> bool:
    """Numbers, switches and nested sections are no secrets, whatever they are called."""
    words = {word.lower() for word in _WORD_EDGE.split(name)}
    return bool(words & _WORDS) and isinstance(value, str) and value != ""
