"""What decides the bytes of a corpus, besides its input."""

from dataclasses import dataclass, field

from ..clean.settings import CleanSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the bytes of a corpus, besides its input.

    Args:
        tokenizer_kind: one of `tokenizer.KINDS`.
        tokenizer_path: the existing tokenizer, for the kinds that read one.
        vocab_size: pieces of a trained tokenizer.
        special_tokens: that no text encodes to; added when training, and to an existing tokenizer that lacks them.
        lowercase: of a wordpiece tokenizer trained here.
        text_key: key of the text in JSON lines, column in Parquet.
        held_out: part of the documents for validation; a document goes where its hash says, so equal ones stay together.
        reject_limit: largest part of bad records that is not an error.
        clean: how documents are filtered and deduplicated first.
    """

    tokenizer_kind: str = "sentencepiece_bpe"
    tokenizer_path: str = ""
    vocab_size: int = 32000
    special_tokens: tuple[str, ...] = ()
    lowercase: bool = False
    text_key: str = "text"
    held_out: float = 0.01
    reject_limit: float = 0.001
    clean: CleanSettings = field(default_factory=CleanSettings)
