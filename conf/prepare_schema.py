"""Every key of `hexareme prepare`: raw text in, a corpus folder out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .clean_schema import CleanConfig
from .fields import items, number, text
from .task_schema import TaskConfig


class TokenizerKind(StrEnum):
    sentencepiece_bpe = "sentencepiece_bpe"
    sentencepiece_unigram = "sentencepiece_unigram"
    byte_bpe = "byte_bpe"
    wordpiece = "wordpiece"
    huggingface = "huggingface"
    sentencepiece_file = "sentencepiece_file"


@dataclass(kw_only=True)
class TokenizerConfig:
    kind: TokenizerKind = text(TokenizerKind.sentencepiece_bpe, help="trained on the corpus, or (last two) read from tokenizer.path")
    path: str = text("", help="an existing tokenizer: a tokenizer.json, its folder, or a SentencePiece .model")
    vocab_size: int = number(32000, least=257, most=2**31 - 1, help="pieces of a tokenizer trained here; an existing one has its own")
    special_tokens: list[str] = items(help="tokens such as <|user|> that no text encodes to; an existing tokenizer gets those it lacks")
    lowercase: bool = text(False, help="wordpiece: make all letters small and drop their accents")


@dataclass(kw_only=True)
class PrepareConfig:
    """A corpus folder from raw text."""

    input: Any = text(help="file, folder, glob, URL (s3://, gs://, hf://datasets/name), - for stdin, python_stdlib for this Python's own "
                           "library; or a list of these and of {path: ..., format: ..., text_key: ..., split: ...}")
    output: str = text(help="folder for the corpus")
    workers: int = number(0, least=0, most=1024, help="processes that tokenize; 0: one for each core")
    text_key: str = text("text", help="key of the text in JSON lines, column of the text in Parquet")
    held_out: float = number(0.01, least=0, below=1, help="part of the documents, chosen by a hash of their text, kept for validation")
    reject_limit: float = number(0.001, least=0, most=1, help="largest part of bad records (as broken JSON) that is no error")
    overwrite: bool = text(False, help="replace another corpus that lies at output")
    tokenizer: TokenizerConfig
    task: TaskConfig
    clean: CleanConfig
