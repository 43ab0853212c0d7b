"""Text to token ids and back, with one tokenizer that knows no training framework.

Two libraries stand behind one protocol, SentencePiece and Hugging Face tokenizers, and tiktoken encodes for the second where its ids are
the same. Those that `prepare` trains give the text back exactly, whatever it holds (but for WordPiece, which keeps words only); those
that the user brings do what their files say.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import DTypeLike

from ..errors import DataError
from .encoded import Encoded
from .huggingface import HuggingFaceTokenizer, fast_encoder, versions, with_special_tokens
from .sentence_piece import SentencePieceTokenizer

DESCRIPTION = "description.json"
END_OF_DOCUMENT = "<|endofdoc|>"
TRAINED_KINDS = ("sentencepiece_bpe", "sentencepiece_unigram", "byte_bpe", "wordpiece")
EXISTING_KINDS = ("huggingface", "sentencepiece_file")
KINDS = TRAINED_KINDS + EXISTING_KINDS

_VERSION = 1
_SENTENCEPIECE_KINDS = ("sentencepiece_bpe", "sentencepiece_unigram", "sentencepiece_file")

# How well-known tokenizers spell the end of a text, where their folder does not say it.
_KNOWN_ENDS = (END_OF_DOCUMENT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<｜end▁of▁sentence｜>", "[SEP]")


class Tokenizer(Protocol):
    """Turns text into ids and back."""

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""

    @property
    def end_of_document(self) -> int:
        """The id after each document; no text encodes to it."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Spelling and id of every token that no text spells, end of document included; `encode` gives at most the unknown one."""

    @property
    def padding(self) -> int | None:
        """The id that stands for nothing, where the tokenizer has one."""

    @property
    def unknown(self) -> int | None:
        """The id of what no other token spells, where the tokenizer has one."""

    @property
    def encoder(self) -> str:
        """The library whose code encodes texts."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special id: those of the library's own call, also where it is encoded in parts."""

    def encode_batch(self, texts: Sequence[str], *, close: bool = False, dtype: DTypeLike = np.uint32) -> Encoded:
        """As `encode` of each, faster, and in bounded memory for texts of any length; `close`: each is followed by `end_of_document`."""

    def encode_marked(self, text: str) -> list[int]:
        """As `encode`, but what spells a special token becomes its id: for templates that we fill ourselves, never for data."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special ids give nothing."""


def build_tokenizer(
    kind: str, model: bytes, end_of_document: int, *, special_tokens: Sequence[str] = (), proof: Mapping[str, str] | None = None
) -> Tokenizer:
    """A tokenizer from the bytes of its model file.

    Args:
        kind: one of `KINDS`.
        model: a SentencePiece model or a `tokenizer.json`.
        end_of_document: an id of the model.
        special_tokens: SentencePiece only: special tokens beside the model's own.
        proof: from `prove`: tiktoken encodes. Made for other bytes or versions, it is made again, which takes a second or two.
    """
    assert kind in KINDS, kind
    if kind in _SENTENCEPIECE_KINDS:
        trained_here = kind in TRAINED_KINDS
        return SentencePieceTokenizer(model, end_of_document=end_of_document, trained_here=trained_here, special_tokens=special_tokens)
    fast = fast_encoder(model, proven=proof == _facts(model)) if proof else None
    return HuggingFaceTokenizer(model, end_of_document=end_of_document, fast=fast)


def prove(kind: str, model: bytes) -> dict[str, str] | None:
    """Whether tiktoken gives the ids of this model: the facts for which that was shown, or None.

    Args:
        kind: one of `KINDS`.
        model: its bytes.
    """
    return _facts(model) if kind not in _SENTENCEPIECE_KINDS and fast_encoder(model, proven=False) else None


def save_tokenizer(folder: Path, *, kind: str, model: bytes, end_of_document: int, special_tokens: Sequence[str] = (),
                   proof: Mapping[str, str] | None = None) -> Tokenizer:
    """Writes the model file and its description into a new folder, in the form that `load_tokenizer` reads.

    Args:
        folder: does not exist yet.
        kind: one of `KINDS`.
        model: a SentencePiece model or a `tokenizer.json`.
        end_of_document: an id of the model.
        special_tokens: added where the model lacks them: they get the next ids, in order.
        proof: from `prove`, made before; where it is for other bytes or versions, it is made again.
    """
    sentencepiece = kind in _SENTENCEPIECE_KINDS
    model = model if sentencepiece else with_special_tokens(model, special_tokens)
    proof = proof if proof and proof == _facts(model) else prove(kind, model)
    tokenizer = build_tokenizer(kind, model, end_of_document, special_tokens=special_tokens, proof=proof)
    file = "tokenizer.model" if sentencepiece else "tokenizer.json"
    description = {
        "version": _VERSION,
        "kind": kind,
        "file": file,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": end_of_document,
        "padding": tokenizer.padding,
        "unknown": tokenizer.unknown,
        "special_tokens": dict(tokenizer.special_tokens),
        "tiktoken": proof,
    }
    folder.mkdir(parents=True)
    (folder / file).write_bytes(model)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer at `path`.

    Args:
        path: a corpus folder, its tokenizer folder, any folder with a `tokenizer.json` or `tokenizer.model`, or such a file.

    Raises:
        DataError: nothing there, not readable, or no piece that ends a document.
    """
    path = Path(path).expanduser()
    file = model_file(path)
    return _read("huggingface" if file.suffix == ".json" else "sentencepiece_file", file)[3]


def model_file(path: Path) -> Path:
    """The model file at `path`: itself, or the one in that folder.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return path
    for folder in (path, path / "tokenizer"):
        for name in ("tokenizer.json", "tokenizer.model"):
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"no tokenizer at {path}", do="give a corpus folder, a tokenizer.json or a .model file", file=path)


def read_existing(kind: str, path: Path) -> tuple[str, bytes, int]:
    """An existing tokenizer: its kind, its model bytes and its end-of-document id.

    Args:
        kind: `huggingface` or `sentencepiece_file`.
        path: the file, or a folder with it; one that `save_tokenizer` wrote keeps the kind it was trained as, and so stays lossless.

    Raises:
        DataError: missing, not readable, of the other library, or no piece that ends a document.
    """
    return _read(kind, path)[:3]


def proof_beside(path: Path) -> Mapping[str, str] | None:
    """What `save_tokenizer` has written of the model file at `path` as its proof, if it has."""
    description = model_file(path).parent / DESCRIPTION
    found = json.loads(description.read_text(encoding="utf-8")) if description.is_file() else {}
    return found.get("tiktoken") if isinstance(found, dict) else None


def _read(kind: str, path: Path) -> tuple[str, bytes, int, Tokenizer]:
    file = model_file(path)
    way = "give a tokenizer.json" if kind == "huggingface" else "give a SentencePiece .model"
    try:
        model = file.read_bytes()
        if (described := _described(file, model)) is not None:
            if (described[0] in _SENTENCEPIECE_KINDS) != (kind in _SENTENCEPIECE_KINDS):
                raise ValueError(f"it is of kind {described[0]}")
            return described[0], model, described[1].end_of_document, described[1]
        end = _huggingface_end(model, file) if kind == "huggingface" else _sentencepiece_end(model)
        if end is not None:
            return kind, model, end, build_tokenizer(kind, model, end)
    except Exception as error:  # both libraries raise bare Exception or RuntimeError for a file that they cannot read
        raise DataError(f"{file} is no tokenizer of kind {kind}: {error}", do=way, file=file) from error
    way = "add an end-of-text special token to the tokenizer (eos_token in tokenizer_config.json beside it)"
    raise DataError(f"{file} has no piece that ends a document", do=way, file=file)


def _described(file: Path, model: bytes) -> tuple[str, Tokenizer] | None:
    """Kind and tokenizer, where the description beside a model file is about that file."""
    description = file.parent / DESCRIPTION
    said: dict[str, Any] = json.loads(description.read_text(encoding="utf-8")) if description.is_file() else {}
    if said.get("file") != file.name:
        return None
    if said["kind"] not in KINDS:
        raise ValueError(f"{description} says kind={said['kind']}, which this version does not know")
    special = list(said.get("special_tokens", {}))
    tokenizer = build_tokenizer(said["kind"], model, said["end_of_document"], special_tokens=special, proof=said.get("tiktoken"))
    if tokenizer.vocab_size != said["vocab_size"]:
        raise ValueError(f"{description} says vocab_size={said['vocab_size']}, but the model has {tokenizer.vocab_size}")
    return said["kind"], tokenizer


def _facts(model: bytes) -> dict[str, str]:
    return {"model": xxhash.xxh3_128_hexdigest(model), **versions()}


def _sentencepiece_end(model: bytes) -> int | None:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model)
    if processor.eos_id() >= 0:
        return processor.eos_id()
    controls = {processor.id_to_piece(i): i for i in range(processor.vocab_size()) if processor.is_control(i)}
    return next((controls[piece] for piece in _KNOWN_ENDS if piece in controls), None)


def _huggingface_end(model: bytes, file: Path) -> int | None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(model)
    settings = file.parent / "tokenizer_config.json"
    named: list[str] = []
    if settings.is_file():
        token = json.loads(settings.read_text(encoding="utf-8")).get("eos_token")
        named = [token["content"] if isinstance(token, dict) else token] if token else []
    ids = (tokenizer.token_to_id(piece) for piece in (*named, *_KNOWN_ENDS))
    return next((i for i in ids if i is not None), None)
