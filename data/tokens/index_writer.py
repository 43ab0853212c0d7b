"""Writes `.idx` files in pieces, so that memory does not grow with the documents."""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from .index_file import CHUNK, HEADER, IndexFile, pack_header


def lengths_of(stream: BinaryIO, documents: int) -> Iterator[np.ndarray]:
    """The lengths (int32) that lie behind the header, chunk by chunk."""
    for first in range(0, documents, CHUNK):
        stream.seek(HEADER.size + 4 * first)
        yield np.frombuffer(stream.read(4 * min(CHUNK, documents - first)), "<i4")


def complete_index(stream: BinaryIO, dtype: np.dtype, documents: int) -> None:
    """Behind the lengths of documents of one sequence each, appends pointers and document indices, and fills in the header.

    Args:
        stream: open for reading and writing; the lengths lie where they belong.
        dtype: of the tokens.
        documents: their number.
    """
    end = 0
    for lengths in lengths_of(stream, documents):
        ends = end + np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
        stream.seek(0, os.SEEK_END)
        stream.write((ends - lengths.astype(np.int64) * dtype.itemsize).astype("<i8").tobytes())
        end = int(ends[-1])
    stream.seek(0, os.SEEK_END)
    for first in range(0, documents + 1, CHUNK):
        stream.write(np.arange(first, min(first + CHUNK, documents + 1), dtype="<i8").tobytes())
    stream.seek(0)
    stream.write(pack_header(dtype, sequences=documents, document_indices=documents + 1))


def write_joined_index(stream: BinaryIO, indices: Sequence[IndexFile]) -> None:
    """The index of token files whose `.bin`s lie end to end.

    Args:
        stream: at its beginning.
        indices: checked, of one dtype; at least one.
    """
    sequences, documents = sum(len(index.lengths) for index in indices), sum(index.num_documents for index in indices)
    stream.write(pack_header(indices[0].dtype, sequences=sequences, document_indices=documents + 1))
    for index in indices:
        for first in range(0, len(index.lengths), CHUNK):
            stream.write(index.lengths[first : first + CHUNK].tobytes())
    end = 0
    for index in indices:
        for first in range(0, len(index.pointers), CHUNK):
            stream.write((index.pointers[first : first + CHUNK] + end).astype("<i8").tobytes())
        end += index.bin_size
    before = 0
    for index in indices:
        for first in range(0, index.num_documents, CHUNK):
            stream.write((index.document_indices[first : min(first + CHUNK, index.num_documents)] + before).astype("<i8").tobytes())
        before += len(index.lengths)
    stream.write(np.array([sequences], dtype="<i8").tobytes())
