"""Examples as a person reads them: token by token, each with whether it is learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tokenizer.tokenizer import Tokenizer, load_tokenizer
from ..tokens.description import read_description
from ..tokens.token_file import open_corpus
from .packed import open_packed, open_part_array

_MOST_BYTES = 8  # ids that may spell one character together
_MOST_TOKENS = 4096  # shown of one document


@dataclass(frozen=True)
class Piece:
    """What one token spells (several that share a character), whether it is a special one, and whether it is learned."""

    text: str
    ids: tuple[int, ...]
    special: bool
    learned: bool


@dataclass(frozen=True)
class Shown:
    """One example: a name for it, and its pieces."""

    title: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Preview:
    """What is learned from at once: a row of examples, a pair, a text; `title` for people."""

    title: str
    examples: list[Shown]


def previews(folder: str, count: int) -> list[Preview]:
    """Samples spread over the training part.

    Args:
        folder: a corpus folder of any task.
        count: how many.

    Raises:
        DataError: the corpus is missing or damaged.
    """
    show = {"chat": _rows, "preference": _pairs, "classification": _texts, "text": _texts}[read_description(folder).task.kind]
    return show(folder, count, load_tokenizer(folder))


def pieces(tokenizer: Tokenizer, ids: Sequence[int], learned: Sequence[int]) -> list[Piece]:
    """Tokens as texts: end to end they are the decoded whole, special tokens by their spelling.

    Args:
        tokenizer: of the ids.
        ids: tokens.
        learned: 0 or 1 for each.
    """
    special = {number: spelling for spelling, number in tokenizer.special_tokens.items()}
    found: list[Piece] = []
    before: list[int] = []  # ids of the last piece: some tokenizers spell a token in another way at the start of a text
    waiting: list[int] = []
    for place, token in enumerate(ids):
        if token in special:
            if waiting:
                found.append(Piece(tokenizer.decode(waiting), tuple(waiting), False, bool(learned[place - 1])))
            found.append(Piece(special[token], (token,), True, bool(learned[place])))
            before, waiting = [], []
            continue
        waiting.append(token)
        text = tokenizer.decode([*before, *waiting])[len(tokenizer.decode(before)) if before else 0 :]
        if text.endswith("\ufffd") and len(waiting) < _MOST_BYTES and place + 1 < len(ids):
            continue  # the first bytes of a character
        found.append(Piece(text, tuple(waiting), False, bool(learned[place])))
        before, waiting = waiting, []
    return found


def _spread(count: int, total: int) -> list[int]:
    return sorted({total * place // count for place in range(min(count, total))}) if total else []


def _rows(folder: str, count: int, tokenizer: Tokenizer) -> list[Preview]:
    packed, length = open_packed(folder), read_description(folder).task.sequence_length
    found = []
    for row in _spread(count, packed.num_rows):
        first, last = packed.rows.read(row, 2).tolist()
        examples = [_example(packed.tokens, packed.mask, number, tokenizer) for number in range(first, last)]
        used = sum(sum(len(piece.ids) for piece in example.pieces) - 1 for example in examples)
        found.append(Preview(f"row {row}: {last - first} examples, {used} of {length} inputs", examples))
    return found


def _pairs(folder: str, count: int, tokenizer: Tokenizer) -> list[Preview]:
    tokens, mask = open_corpus(folder), open_part_array(folder, read_description(folder), "train", "mask")
    found = []
    for pair in _spread(count, tokens.num_documents // 2):
        sides = [_example(tokens, mask, 2 * pair + side, tokenizer, name) for side, name in enumerate(("chosen", "rejected"))]
        found.append(Preview(f"pair {pair}", sides))
    return found


def _texts(folder: str, count: int, tokenizer: Tokenizer) -> list[Preview]:
    """Of a text every token is learned but the first, which nothing precedes; of a class none: its label is."""
    description, tokens = read_description(folder), open_corpus(folder)
    classes = description.task.kind == "classification"
    labels = open_part_array(folder, description, "train", "labels") if classes else None
    found = []
    for number in _spread(count, tokens.num_documents):
        ids = tokens.document(number)
        learned = np.full(len(ids), not classes, dtype=np.uint8)
        label = f", label {description.task.labels[int(labels.read(number, 1)[0])]!r}" if labels is not None else ""
        shown = Shown(f"document {number}: {len(ids)} tokens{label}", pieces(tokenizer, ids[:_MOST_TOKENS].tolist(), learned.tolist()))
        found.append(Preview(f"document {number}", [shown]))
    return found


def _example(tokens: Any, mask: Any, number: int, tokenizer: Tokenizer, name: str = "") -> Shown:
    ids = tokens.document(number)
    learned = mask.read(int(tokens.document_start(number)), len(ids))
    title = f"{name or f'example {number}'}: {len(ids)} tokens, {int(learned.sum())} learned"
    return Shown(title, pieces(tokenizer, ids[:_MOST_TOKENS].tolist(), learned.tolist()))


def as_plain(preview: Preview) -> dict[str, Any]:
    """For JSON."""
    return {"title": preview.title, "examples": [
        {"title": shown.title, "tokens": [{"text": piece.text, "ids": list(piece.ids), "special": piece.special, "learned": piece.learned}
                                          for piece in shown.pieces]} for shown in preview.examples]}
