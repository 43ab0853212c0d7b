"""Rendered text to ids, its special tokens to their own ids, with the characters that each id stands for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..tokenizer.tokenizer import Tokenizer, model_file


@dataclass(frozen=True)
class Spans:
    """ids, int64 (n,), and the characters first .. end of the text that each covers, int64 (n,) each."""

    ids: np.ndarray
    first: np.ndarray
    end: np.ndarray

    def covering(self, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
        """uint8 (n,): 1 for each id that covers a character of one of the ranges (start, end)."""
        mask = np.zeros(len(self.ids), dtype=np.uint8)
        for start, end in ranges:
            mask[np.searchsorted(self.end, start, "right") : np.searchsorted(self.first, end, "left")] = 1
        return mask


class ChatEncoder(Protocol):
    """Encodes what a chat template has rendered, as `apply_chat_template` does."""

    def encode(self, text: str) -> Spans: ...


class HuggingFaceChatEncoder:
    """A `tokenizer.json`.

    Args:
        model: its bytes.
        special: spellings that the tokenizer's folder calls special (bos_token ...); those it knows become tokens of their own.
    """

    def __init__(self, model: bytes, special: Sequence[str]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_buffer(model)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.add_special_tokens([token for token in special if self._tokenizer.token_to_id(token) is not None])

    def encode(self, text: str) -> Spans:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Spans(np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])


class SentencePieceChatEncoder:
    """A SentencePiece model: control pieces that are spelled out become their ids, the texts between are encoded one by one.

    Args:
        model: the bytes of the `.model` file.
        special: spelling and id of special tokens.
    """

    def __init__(self, model: bytes, special: Mapping[str, int]) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        self._special = dict(special)
        longest_first = sorted(filter(None, special), key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def encode(self, text: str) -> Spans:
        rows: list[tuple[int, int, int]] = []
        at = 0
        for number, part in enumerate(self._control.split(text)):
            if number % 2:
                rows.append((self._special[part], at, at + len(part)))
            elif part:
                found = self._processor.encode(part, out_type="offset_mapping")
                rows += [(token, at + first, at + end) for token, (first, end) in zip(found["ids"], found["offsets"], strict=True)]
            at += len(part)
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        for row in range(len(table) - 2, -1, -1):
            if table[row, 2] == table[row, 1] == table[row + 1, 1]:  # all bytes of a character but its last cover nothing, says the library
                table[row, 2] = table[row + 1, 2]
        return Spans(table[:, 0], table[:, 1], table[:, 2])


def load_chat_encoder(folder: Path, tokenizer: Tokenizer, variables: Mapping[str, Any]) -> ChatEncoder:
    """The encoder of a tokenizer that was saved for a corpus.

    Args:
        folder: of it.
        tokenizer: the same, loaded.
        variables: of its folder, see `template_variables`.
    """
    file = model_file(folder)
    if file.suffix != ".json":
        return SentencePieceChatEncoder(file.read_bytes(), tokenizer.special_tokens)
    named = [token for value in variables.values() for token in (value if isinstance(value, list) else [value])]
    return HuggingFaceChatEncoder(file.read_bytes(), [*tokenizer.special_tokens, *named])
