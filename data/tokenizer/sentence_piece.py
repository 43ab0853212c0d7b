"""A SentencePiece model."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from .cutting import LETTER, PART, Cutter
from .encoded import Encoded, encode_in_parts
from .library_cuts import BETWEEN_WORDS

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_SPACE_MARK = "\u2581"  # SentencePiece's own spelling of a space
_MARKS = r"[\u0300-\u036f\u0610-\u061a\u064b-\u065f]"  # how a letter may end after normalization
_LONGEST_UNIGRAM = 1 << 22  # characters; SentencePiece takes some 30 bytes for each of UTF-8
_STOPS = ",.;:!?\n，。、！？；："


class SentencePieceTokenizer:
    """A SentencePiece model, and special tokens beside it.

    BPE: a long text in parts has the same ids, because no piece of the vocabulary lies across a cut. Unigram: SentencePiece adds up the
    scores of a whole text in fp32, so what came before decides between pieces of nearly equal score: a text is encoded in one call, and
    only beyond four million characters, where that sum has lost all but its leading digits, in parts.

    Args:
        model: the bytes of the `.model` file.
        end_of_document: id of a control piece.
        trained_here: the model has our settings (no dummy prefix, identity normalization, byte fallback). Such a model is lossless but
            for U+2581, which SentencePiece takes for a space; we spell it in bytes.
        special_tokens: beside the control pieces of the model; those that it lacks get the next ids, in order.
    """

    def __init__(self, model: bytes, *, end_of_document: int, trained_here: bool, special_tokens: Sequence[str] = ()) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = processor = SentencePieceProcessor(model_proto=model)
        mark = _SPACE_MARK.encode() if trained_here else b""
        self._marks = np.array([processor.piece_to_id(f"<0x{byte:02X}>") for byte in mark], np.int32)
        self._cut = _cutter(processor)
        pieces = processor.vocab_size()
        self.special_tokens = {processor.id_to_piece(number): number for number in range(pieces) if processor.is_control(number)}
        for token in special_tokens:
            self.special_tokens.setdefault(token, pieces + sum(number >= pieces for number in self.special_tokens.values()))
        self.vocab_size: int = max(pieces, *(number + 1 for number in self.special_tokens.values()), 0)
        self.end_of_document = end_of_document
        self.padding: int | None = processor.pad_id() if processor.pad_id() >= 0 else None
        self.unknown: int | None = processor.unk_id()

    @property
    def encoder(self) -> str:
        """The library whose code encodes texts."""
        return "sentencepiece"

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text]).ids.tolist()

    def encode_batch(self, texts: Sequence[str], *, close: bool = False, dtype: DTypeLike = np.uint32) -> Encoded:
        return encode_in_parts(texts, self._cut, self._encode, end=self.end_of_document if close else None, dtype=dtype)

    def encode_marked(self, text: str) -> list[int]:
        if not self.special_tokens:
            return self.encode(text)
        spelled = re.compile("|".join(re.escape(token) for token in sorted(self.special_tokens, key=len, reverse=True)))
        ids, start = [], 0
        for found in spelled.finditer(text):
            ids += [*self.encode(text[start : found.start()]), self.special_tokens[found.group()]]
            start = found.end()
        return ids + self.encode(text[start:])

    def decode(self, ids: Sequence[int]) -> str:
        pieces = self._processor.vocab_size()
        return self._processor.decode([int(token) for token in ids if token < pieces])

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        if not len(self._marks) or not any(_SPACE_MARK in text for text in texts):
            return self._processor.encode(texts, out_type="numpy", num_threads=1)
        return [self._encode_marks(text) for text in texts]

    def _encode_marks(self, text: str) -> np.ndarray:
        first, *rest = self._processor.encode(text.split(_SPACE_MARK), out_type="numpy", num_threads=1)
        return np.concatenate([first, *(ids for each in rest for ids in (self._marks, each))])


def _cutter(processor: "SentencePieceProcessor") -> Cutter:
    """Cuts before a space or a stop between letters, where no piece of the vocabulary has such a thing inside.

    Unigram is told by its scores: those of BPE are the numbers of its merges.
    """
    pieces = [processor.id_to_piece(number) for number in range(processor.vocab_size())]
    scores = (processor.get_score(number) for number in range(len(pieces)))
    part, longest = (PART, 1 << 20) if all(score.is_integer() for score in scores) else (_LONGEST_UNIGRAM, _LONGEST_UNIGRAM)
    whole = Cutter(None, longest=longest)
    if any(_SPACE_MARK in piece.lstrip(_SPACE_MARK) for piece in pieces):
        return whole
    plain, spaced = processor.normalize("a"), processor.normalize(" a")
    if plain == spaced == f"{_SPACE_MARK}a" or (plain == f"{_SPACE_MARK}a" and spaced == f"{_SPACE_MARK * 2}a"):
        return Cutter(BETWEEN_WORDS, skip=" ", part=part, longest=longest)  # the model puts a space before every text
    if plain != "a" or spaced != f"{_SPACE_MARK}a":
        return whole
    stops = "".join(stop for stop in _STOPS if not any(re.search(rf"({LETTER}|{_MARKS}){re.escape(stop)}", piece) for piece in pieces))
    return Cutter(re.compile(rf"(?<={LETTER})(?=[ {re.escape(stops)}]{LETTER})"), part=part, longest=longest)
