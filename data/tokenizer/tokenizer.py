"""Text to token ids and back, without loss, with one tokenizer that knows no training framework.

Two libraries stand behind one protocol: SentencePiece, and Hugging Face tokenizers. Those that `prepare` trains give the text
back exactly, whatever it holds; those that the user brings do what their files say.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import DataError

DESCRIPTION = "description.json"
END_OF_DOCUMENT = "<|endofdoc|>"
TRAINED_KINDS = ("sentencepiece_bpe", "sentencepiece_unigram", "byte_bpe")
EXISTING_KINDS = ("huggingface", "sentencepiece_file")
KINDS = TRAINED_KINDS + EXISTING_KINDS

_VERSION = 1
_SENTENCEPIECE_KINDS = ("sentencepiece_bpe", "sentencepiece_unigram", "sentencepiece_file")
_SPACE_MARK = "\u2581"  # SentencePiece's own spelling of a space

# A letter, then one space or newline and a letter: no piece of a tokenizer that we train lies across the point between, so a long
# text is encoded there in parts with the same ids. (SentencePiece: a space only starts a piece, and no piece joins scripts;
# byte-level: the pattern of GPT-2 always breaks there.) Only unigram may choose otherwise between pieces of equal score, because
# SentencePiece adds up the scores of the whole text in fp32.
_BOUNDARY = re.compile(r"(?<=[^\W\d_])(?=[ \n][^\W\d_])")
_PART = 1 << 18  # characters; bounds the memory of an encoder, which takes hundreds of bytes a character

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

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special id."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode` of each, faster."""

    def parts(self, text: str) -> list[str]:
        """A long text in parts; their ids one after the other are those of `text`. Only [text] where that cannot be promised."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special ids give nothing."""


def cut(text: str, limit: int = _PART) -> list[str]:
    """Cuts a long text where no piece can lie across, or, failing that, every `limit` characters.

    Args:
        text: any text; joining the parts gives it back.
        limit: the longest part, in characters.
    """
    parts = []
    start = 0
    while len(text) - start > limit:
        found = _BOUNDARY.search(text, start + limit // 2, start + limit)
        end = found.start() if found else start + limit
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


class SentencePieceTokenizer:
    """A SentencePiece model.

    Args:
        model: the bytes of the `.model` file.
        end_of_document: id of a control piece.
        trained_here: the model has our settings (no dummy prefix, identity normalization, byte fallback), so that a text may be
            encoded in parts. Such a model is lossless but for U+2581, which SentencePiece takes for a space; we spell it in bytes.
    """

    def __init__(self, model: bytes, *, end_of_document: int, trained_here: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        self._trained_here = trained_here
        self._mark_ids: list[int] = []
        if trained_here:
            self._mark_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        self.vocab_size: int = self._processor.vocab_size()
        self.end_of_document = end_of_document

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._trained_here:
            return self._processor.encode(list(texts), num_threads=1)
        if any(_SPACE_MARK in text for text in texts):
            return [self._encode_marked(text) for text in texts]
        return _encode_parts(texts, lambda parts: self._processor.encode(parts, num_threads=1))

    def parts(self, text: str) -> list[str]:
        return cut(text) if self._trained_here else [text]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(list(ids))

    def _encode_marked(self, text: str) -> list[int]:
        first, *rest = _encode_parts(text.split(_SPACE_MARK), lambda parts: self._processor.encode(parts, num_threads=1))
        return first + [token for ids in rest for token in (*self._mark_ids, *ids)]


class HuggingFaceTokenizer:
    """A `tokenizer.json` of the Hugging Face tokenizers library.

    Args:
        model: the bytes of the file.
        end_of_document: id of a special token; its spelling inside a text is encoded as ordinary text.
        trained_here: byte-level with the pattern of GPT-2, so that a text may be encoded in parts.
    """

    def __init__(self, model: bytes, *, end_of_document: int, trained_here: bool) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_buffer(model)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Only a token that is marked special is kept out of texts by the switch below; some ship theirs unmarked.
        self._tokenizer.add_special_tokens([self._tokenizer.id_to_token(end_of_document)])
        self._tokenizer.encode_special_tokens = True
        self._trained_here = trained_here
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end_of_document = end_of_document

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return _encode_parts(texts, self._encode_all) if self._trained_here else self._encode_all(texts)

    def parts(self, text: str) -> list[str]:
        return cut(text) if self._trained_here else [text]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def build_tokenizer(kind: str, model: bytes, end_of_document: int) -> Tokenizer:
    """A tokenizer from the bytes of its model file.

    Args:
        kind: one of `KINDS`.
        model: a SentencePiece model or a `tokenizer.json`.
        end_of_document: an id of the model.
    """
    assert kind in KINDS, kind
    build: Callable[..., Tokenizer] = SentencePieceTokenizer if kind in _SENTENCEPIECE_KINDS else HuggingFaceTokenizer
    return build(model, end_of_document=end_of_document, trained_here=kind in TRAINED_KINDS)


def save_tokenizer(folder: Path, *, kind: str, model: bytes, end_of_document: int) -> Tokenizer:
    """Writes the model file and its description into a new folder, in the form that `load_tokenizer` reads."""
    tokenizer = build_tokenizer(kind, model, end_of_document)
    file = "tokenizer.model" if kind in _SENTENCEPIECE_KINDS else "tokenizer.json"
    description = {
        "version": _VERSION,
        "kind": kind,
        "file": file,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": end_of_document,
    }
    folder.mkdir(parents=True)
    (folder / file).write_bytes(model)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
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
    return build_tokenizer(*read_existing("huggingface" if file.suffix == ".json" else "sentencepiece_file", file))


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
    file = model_file(path)
    way = "give a tokenizer.json" if kind == "huggingface" else "give a SentencePiece .model"
    try:
        model = file.read_bytes()
        if (described := _described_kind_and_end(file)) is not None:
            if (described[0] in _SENTENCEPIECE_KINDS) != (kind in _SENTENCEPIECE_KINDS):
                raise ValueError(f"it is of kind {described[0]}")
            return described[0], model, described[1]
        end = _huggingface_end(model, file) if kind == "huggingface" else _sentencepiece_end(model)
    except Exception as error:  # both libraries raise bare Exception or RuntimeError for a file that they cannot read
        raise DataError(f"{file} is no tokenizer of kind {kind}: {error}", do=way, file=file) from error
    if end is None:
        way = "add an end-of-text special token to the tokenizer (eos_token in tokenizer_config.json beside it)"
        raise DataError(f"{file} has no piece that ends a document", do=way, file=file)
    return kind, model, end


def _encode_parts(texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]]) -> list[list[int]]:
    """Encodes each text in parts of bounded length and joins their ids."""
    if all(len(text) <= _PART for text in texts):
        return encode(list(texts))
    joined = []
    for text in texts:
        ids: list[int] = []
        for part in cut(text):
            ids += encode([part])[0]
        joined.append(ids)
    return joined


def _described_kind_and_end(file: Path) -> tuple[str, int] | None:
    """What the description beside a model file says, if there is one and it is about that file."""
    description = file.parent / DESCRIPTION
    said: dict[str, Any] = json.loads(description.read_text()) if description.is_file() else {}
    if said.get("file") != file.name:
        return None
    if said["kind"] not in KINDS:
        raise ValueError(f"{description} says kind={said['kind']}, which this version does not know")
    tokenizer = build_tokenizer(said["kind"], file.read_bytes(), said["end_of_document"])
    if tokenizer.vocab_size != said["vocab_size"]:
        raise ValueError(f"{description} says vocab_size={said['vocab_size']}, but the model has {tokenizer.vocab_size}")
    return said["kind"], said["end_of_document"]


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
        token = json.loads(settings.read_text()).get("eos_token")
        named = [token["content"] if isinstance(token, dict) else token] if token else []
    ids = (tokenizer.token_to_id(piece) for piece in (*named, *_KNOWN_ENDS))
    return next((i for i in ids if i is not None), None)
