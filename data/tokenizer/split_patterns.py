"""How the pre-tokenizers of well-known byte-level tokenizers split a text, as one regular expression for tiktoken. Pure.

Only patterns that match every character are here: what a pattern leaves out, tiktoken drops and Hugging Face keeps.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .cutting import LETTER

_ENDINGS = r"\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"

GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_ENDINGS}"
# As GPT-2's on each run without digits: such a run ends before a digit, and takes all spaces there.
_GPT2_BETWEEN_DIGITS = GPT2.replace(r"| ?\p{N}+|", r"|\p{N}|").replace(_ENDINGS, rf"\s+(?=\p{{N}})|{_ENDINGS}")
_WORDS = rf"{_CONTRACTIONS}|{_PREFIX}\p{{L}}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
CL100K = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}|{_ENDINGS}"  # GPT-4, Llama 3
QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}|{_ENDINGS}"
_TITLE, _CAPITALS = rf"{_PREFIX}{_UPPER}*{_LOWER}+", rf"{_PREFIX}{_UPPER}+{_LOWER}*"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
O200K = rf"{_TITLE}{_CONTRACTIONS}?|{_CAPITALS}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHES}|{_ENDINGS}"  # GPT-4o
TEKKEN = rf"{_TITLE}|{_CAPITALS}|\p{{N}}|{_SLASHES}|{_ENDINGS}"  # Mistral NeMo

KNOWN = (GPT2, CL100K, QWEN2, O200K, TEKKEN)

# In all of these a letter never shares a piece with what follows it here, and what follows is matched as at the start of a text.
# (What Python calls a letter here may be a number there: no digit follows those.)
BOUNDARY = re.compile(rf"(?<={LETTER})(?=[ \n,.;:!?()\[\]{{}}<>=\"/+*，。、！？；：（）「」])|(?<=[A-Za-z])(?=[0-9])")


def split_pattern(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """The pattern that splits as a byte-level pre-tokenizer of a `tokenizer.json` does; None: not one that is known here.

    Args:
        pre_tokenizer: that entry of the file.
    """
    if pre_tokenizer is None:
        return None
    steps: Sequence[Mapping[str, Any]] = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    *before, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    regular = last.get("use_regex", True)
    match before:
        case []:
            return GPT2 if regular else None
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}] if not regular:
            return pattern if pattern in KNOWN else None
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}] if not regular:
            return pattern if pattern in KNOWN else None
        case [{"type": "Digits", "individual_digits": True}] if regular:
            return _GPT2_BETWEEN_DIGITS
    return None
