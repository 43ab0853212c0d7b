"""What is kept of a document to find its duplicates: a record of fixed size, the same on every machine and for any number of workers.

MinHash over the word n-grams of a document (Broder, "On the resemblance and containment of documents", 1997), in bands of rows for
locality-sensitive hashing; FineWeb's numbers by default: 5 words, 14 bands of 8 rows (Penedo et al., 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from .word_hashes import comparable, mixed, n_grams, overlapping

_BLOCK = 1024  # shingles hashed at a time: 112 x 1024 x 4 bytes stay in a second-level cache


@dataclass(frozen=True)
class SignatureShape:
    """How documents are compared.

    Args:
        near: whether near duplicates are sought at all; else only equal texts are.
        words: of one shingle; a document with fewer has no near duplicates.
        bands: of hashes; two documents are compared when all rows of one band agree.
        rows: hashes of a band.
        seed: of the hash functions.
    """

    near: bool = True
    words: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 0

    @property
    def hashes(self) -> int:
        """Of one document."""
        return self.bands * self.rows if self.near else 0

    @property
    def record(self) -> np.dtype:
        """Of one document: `exact`, the XXH3-128 of its UTF-8; `shingles`, their count (0: no MinHash); `minhash`, the smallest hashes."""
        exact = [("exact", "<u8", (2,))]
        return np.dtype([*exact, ("shingles", "<u4"), ("minhash", "<u4", (self.hashes,))] if self.near else exact)


class Signer:
    """Makes the records of documents; runs in the workers.

    Args:
        shape: how documents are compared.
    """

    def __init__(self, shape: SignatureShape) -> None:
        self._shape = shape
        # h_k(x) = a_k x + b_k modulo 2^32 on shingle hashes that are already uniform; a odd.
        counter = np.arange(1, 2 * shape.hashes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        numbers = mixed(mixed(counter) + np.uint64(shape.seed)).astype(np.uint32)
        self._factors = numbers[:shape.hashes, None] | np.uint32(1)
        self._terms = numbers[shape.hashes:, None]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The records of texts, in their order, (len(texts),) of `SignatureShape.record`."""
        records = np.zeros(len(texts), self._shape.record)
        for record, text in zip(records, texts, strict=True):
            digest = xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass"))
            record["exact"] = digest >> 64, digest & (2**64 - 1)
            if self._shape.near:
                record["shingles"], record["minhash"] = self._minhash(text)
        return records

    def _minhash(self, text: str) -> tuple[int, np.ndarray]:
        """(number of shingles, smallest of each hash function, uint32 (hashes,)), in memory that does not grow with the text."""
        n = self._shape.words
        smallest = np.full(self._shape.hashes, 2**32 - 1, np.uint32)
        count = 0
        for piece in overlapping(comparable(text), n):
            shingles = (n_grams(piece.hashes, n) >> np.uint64(32)).astype(np.uint32)
            count += len(shingles)
            for begin in range(0, len(shingles), _BLOCK):
                values = self._factors * shingles[begin:begin + _BLOCK]
                values += self._terms
                np.minimum(smallest, values.min(axis=1), out=smallest)
        return (min(count, 2**32 - 1), smallest) if count else (0, np.zeros_like(smallest))
