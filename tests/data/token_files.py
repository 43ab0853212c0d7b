"""Small token files and corpora for the tests of this folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hexareme.data.tokens.description import CorpusDescription, PartDescription, TokenizerDescription, write_description
from hexareme.data.tokens.writer import TokenFileWriter


def write_tokens(prefix: Path, documents: Sequence[Sequence[int]], dtype: type[np.integer] = np.uint16) -> PartDescription:
    with TokenFileWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(np.array(document, dtype=np.int64))
        return writer.finish()


def write_corpus(folder: Path, documents: Sequence[Sequence[int]], vocab_size: int = 1000) -> CorpusDescription:
    folder.mkdir(exist_ok=True)
    parts = {"train": write_tokens(folder / "train", documents)}
    tokenizer = TokenizerDescription(kind="byte_bpe", vocab_size=vocab_size, end_of_document=0)
    description = CorpusDescription(tokenizer=tokenizer, parts=parts)
    write_description(folder, description)
    return description


def random_documents(count: int, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, rng.integers(1, longest + 1)).tolist() for _ in range(count)]
