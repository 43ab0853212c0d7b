"""Special ids of the tokenizer that made a corpus, by name. Reads a description only, no library."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..tokenizer.tokenizer import DESCRIPTION
from ..tokens.description import read_description


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What an objective has to know of a corpus' ids.

    Args:
        path: of the corpus.
        size: entries of its tokenizer; 0: not known.
        end_of_document: -1: not known.
        special_tokens: spelling -> id; empty where the corpus has no tokenizer beside it.
    """

    path: str
    size: int
    end_of_document: int
    special_tokens: dict[str, int]

    def ids(self, sentinels: Sequence[str | int]) -> tuple[int, ...]:
        """Each sentinel as an id.

        Raises:
            DataError: the tokenizer has none of that name, or a number is outside its vocabulary.
        """
        missing = [name for name in sentinels if isinstance(name, str) and name not in self.special_tokens]
        if missing:
            has = ", ".join(self.special_tokens) or "none"
            raise DataError(f"the tokenizer of {self.path} has no special token {', '.join(missing)} (it has {has})", file=self.path,
                            do=f"prepare the corpus with tokenizer.special_tokens={list_of(missing)}, or set data.objective.sentinels")
        found = tuple(self.special_tokens[name] if isinstance(name, str) else name for name in sentinels)
        outside = [number for number in found if number < 0 or (self.size and number >= self.size)]
        if outside:
            raise DataError(f"data.objective.sentinels={outside} are no ids of {self.path}, whose tokenizer has {self.size} entries",
                            do="give ids below that, or names of special tokens", file=self.path)
        return found


def vocabulary_of(path: str) -> Vocabulary:
    """That of a corpus folder; of a Megatron prefix nothing is known.

    Raises:
        DataError: the folder cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        return Vocabulary(path=path, size=0, end_of_document=-1, special_tokens={})
    tokenizer = read_description(path).tokenizer
    file = folder / "tokenizer" / DESCRIPTION
    special: dict[str, int] = {}
    if file.is_file():
        try:
            special = {str(name): int(number) for name, number in json.loads(file.read_text(encoding="utf-8"))["special_tokens"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{file} cannot be read: {error!r}", do="prepare the corpus again", file=file) from error
    return Vocabulary(path=path, size=tokenizer.vocab_size, end_of_document=tokenizer.end_of_document, special_tokens=special)


def list_of(names: Sequence[str]) -> str:
    """Names as an override has them, at most four of them spelled out."""
    shown = [f"'{name}'" for name in names[:4]]
    return f"[{','.join(shown)}{',...' if len(names) > 4 else ''}]"
