"""Where a long text may be cut for a tokenizer of the Hugging Face library. Pure.

Only where its file shows that nothing reaches across. Elsewhere the library gets a text whole, up to a length.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .cutting import LETTER, Cutter
from .split_patterns import BOUNDARY, split_pattern

BETWEEN_WORDS = re.compile(rf"(?<={LETTER})(?= {LETTER})")
_MARK = "\u2581"  # spelling of a space
# None of these looks at what lies on the other side of one space between letters, nor does it change that space.
_LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled"}
_AT_SPACES = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"}
_SPACES_MARKED = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_FIRST_MARKED = {"type": "Prepend", "prepend": _MARK}
_WHOLE = Cutter(None)


class Added(Protocol):
    """A token that was added to a model and is found in texts."""

    @property
    def content(self) -> str:
        """Its spelling."""

    @property
    def lstrip(self) -> bool:
        """It takes the spaces before it."""

    @property
    def rstrip(self) -> bool:
        """It takes the spaces after it."""

    @property
    def single_word(self) -> bool:
        """It is found only between what are no letters."""


def library_cutter(file: Mapping[str, Any], added: Sequence[Added]) -> Cutter:
    """Cuts texts for this tokenizer.

    Args:
        file: a `tokenizer.json`.
        added: tokens that are found in texts.
    """
    cutter = _cutter(file)
    if cutter.boundary is None or any(token.lstrip or token.rstrip or token.single_word for token in added):
        return _WHOLE
    # A boundary inside of an added token would cut it.
    return _WHOLE if any(cutter.boundary.search(token.content) for token in added) else cutter


def _cutter(file: Mapping[str, Any]) -> Cutter:
    normalizers = _steps(file["normalizer"], "normalizers")
    splits = _steps(file["pre_tokenizer"], "pretokenizers")
    local = all(step["type"] in _LOCAL for step in normalizers)
    first = splits[0] if splits else {"type": ""}
    if local and first["type"] in _AT_SPACES:
        return Cutter(BETWEEN_WORDS)
    if local and first["type"] == "Metaspace" and first.get("split", True) and first.get("replacement") == _MARK:
        return Cutter(BETWEEN_WORDS)  # a part begins with its space, so it gets no other one
    if all(step["type"] == "NFC" for step in normalizers) and split_pattern(file["pre_tokenizer"]):
        return Cutter(BOUNDARY)
    # Llama 2, Gemma: merges over the whole text, which cross no space where no token does.
    unsplit = not splits or (len(splits) == 1 and first["type"] == "Split" and first["pattern"] == {"String": " "})
    if unsplit and file["model"].get("type") == "BPE" and not any(_crosses_space(token) for token in file["model"]["vocab"]):
        if normalizers == [_FIRST_MARKED, _SPACES_MARKED]:
            return Cutter(BETWEEN_WORDS, skip=" ")
        if normalizers == [_SPACES_MARKED]:
            return Cutter(BETWEEN_WORDS)
    return _WHOLE


def _crosses_space(token: str) -> bool:
    return _MARK in token.lstrip(_MARK)


def _steps(entry: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if entry is None:
        return []
    return list(entry[name]) if entry["type"] == "Sequence" else [entry]
