"""A `tokenizer.json` of Hugging Face tokenizers, with tiktoken before it where that gives the same ids."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from .byte_level import ByteLevelEncoder
from .cutting import Cutter
from .encoded import Encoded, encode_in_parts, joined
from .library_cuts import library_cutter
from .split_patterns import BOUNDARY

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_LONGEST = 1 << 23  # characters without a boundary; tiktoken takes some 50 bytes for each
_PADDINGS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|endofpad|>")


class HuggingFaceTokenizer:
    """A tokenizer of the library.

    Args:
        model: the bytes of its `tokenizer.json`.
        end_of_document: id of a special token.
        fast: encodes as this model does; None: the library encodes.
    """

    def __init__(self, model: bytes, *, end_of_document: int, fast: ByteLevelEncoder | None = None) -> None:
        self._model = model
        self._library = library_tokenizer(model, end_of_document)
        # Special tokens are no part of a text: what spells one is text.
        self._library.encode_special_tokens = True
        added = self._library.get_added_tokens_decoder()
        self._plain = [token for token in added.values() if not token.special]
        file = json.loads(self._library.to_str())
        self._fast = fast
        self._cut_library = library_cutter(file, self._plain)
        self._cut_fast = Cutter(BOUNDARY, longest=_LONGEST)
        self.special_tokens: dict[str, int] = {token.content: number for number, token in sorted(added.items()) if token.special}
        self.vocab_size: int = max(self._library.get_vocab(with_added_tokens=True).values()) + 1
        self.end_of_document = end_of_document
        self.padding: int | None = next((self.special_tokens[name] for name in _PADDINGS if name in self.special_tokens), None)
        unknown = file["model"].get("unk_token")
        self.unknown: int | None = self._library.token_to_id(unknown) if unknown else None

    @property
    def encoder(self) -> str:
        """The library whose code encodes texts."""
        return "tiktoken" if self._fast else "tokenizers"

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text]).ids.tolist()

    def encode_batch(self, texts: Sequence[str], *, close: bool = False, dtype: DTypeLike = np.uint32) -> Encoded:
        end = self.end_of_document if close else None
        runs = [(fast, list(run)) for fast, run in groupby(texts, self._is_fast)]
        return joined([
            encode_in_parts(run, self._cut_fast, self._encode_fast, end=end, dtype=dtype) if fast
            else encode_in_parts(run, self._cut_library, self._encode_by_library, end=end, dtype=dtype)
            for fast, run in runs
        ], dtype)  # fmt: skip

    def encode_marked(self, text: str) -> list[int]:
        return self._marking.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._library.decode(list(ids), skip_special_tokens=True)

    @cached_property
    def _marking(self) -> "Library":
        return library_tokenizer(self._model, self.end_of_document)

    def _is_fast(self, text: str) -> bool:
        # Tokens that were added but are not special are found in texts before anything else is done; tiktoken knows none of them.
        return self._fast is not None and not any(token.content in text for token in self._plain)

    def _encode_fast(self, texts: list[str]) -> list[np.ndarray]:
        assert self._fast
        return [self._fast.encode(text) if self._fast.can(text) else self._encode_by_library([text])[0] for text in texts]

    def _encode_by_library(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, np.uint32) for encoding in self._library.encode_batch_fast(texts, add_special_tokens=False)]


def library_tokenizer(model: bytes, end_of_document: int) -> "Library":
    """The library's own, without truncation and padding.

    Args:
        model: the bytes of a `tokenizer.json`.
        end_of_document: this token becomes special where it is not.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(model)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Only a token that is marked special is kept out of texts; some ship theirs unmarked.
    tokenizer.add_special_tokens([tokenizer.id_to_token(end_of_document)])
    return tokenizer


def with_special_tokens(model: bytes, special_tokens: Sequence[str]) -> bytes:
    """The same tokenizer with more special tokens: those that it lacks get the next ids, in order.

    Args:
        model: the bytes of a `tokenizer.json`.
        special_tokens: their spelling.
    """
    from tokenizers import AddedToken, Tokenizer

    if not special_tokens:
        return model
    tokenizer = Tokenizer.from_buffer(model)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1).encode()


def fast_encoder(model: bytes, *, proven: bool) -> ByteLevelEncoder | None:
    """tiktoken's encoder for a model, where it gives the same ids.

    Args:
        model: the bytes of a `tokenizer.json`.
        proven: that was found before, for the same bytes and versions of both libraries.
    """
    from .proof_texts import PROOF_TEXTS

    try:
        fast = ByteLevelEncoder(model, proven=proven)
    except ValueError:
        return None
    if proven:
        return fast
    library = library_tokenizer(model, 0)
    library.encode_special_tokens = True
    plain = [token.content for token in library.get_added_tokens_decoder().values() if not token.special]
    texts = [text for text in PROOF_TEXTS if not any(token in text for token in plain)]
    expected = library.encode_batch_fast(texts, add_special_tokens=False)
    return fast if all(fast.encode(text).tolist() == right.ids for text, right in zip(texts, expected, strict=True)) else None


def versions() -> Mapping[str, str]:
    """Of the libraries for which a proof was made."""
    from importlib.metadata import version

    return {name: version(name) for name in ("tiktoken", "tokenizers")}
