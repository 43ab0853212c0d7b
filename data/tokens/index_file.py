"""Megatron's `.idx`: layout, O(1) opening, and the whole check of an untrusted one.

Layout (megatron/core/datasets/indexed_dataset.py, `_IndexWriter`), little-endian and without any padding: magic, version, dtype code,
number n of sequences, number m of document indices; then int32 lengths[n] in tokens, int64 pointers[n] in bytes into the `.bin`,
int64 document_indices[m]: document d holds the sequences document_indices[d] .. document_indices[d + 1].
"""

import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TOKEN_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
FLOAT_DTYPES = {6: "float64", 7: "float32"}
CHUNK = 2**18  # sequences checked at a time: a few MB, whatever the size of the file
REBUILD = "copy the file again from its source, or write the token file again"


def dtype_code(dtype: np.dtype) -> int:
    """Megatron's code of a token dtype.

    Raises:
        ValueError: Megatron has no code for it, or it is no integer.
    """
    codes = {name: code for code, name in TOKEN_DTYPES.items()}
    if dtype.name not in codes:
        raise ValueError(f"dtype={dtype.name} cannot hold token ids in a Megatron file; use one of {sorted(codes)}")
    return codes[dtype.name]


def pack_header(dtype: np.dtype, *, sequences: int, document_indices: int) -> bytes:
    """The first 34 bytes of an `.idx`."""
    return HEADER.pack(MAGIC, VERSION, dtype_code(dtype), sequences, document_indices)


def map_file(path: Path) -> mmap.mmap | bytes:
    """Maps a file for reading; an empty one, which cannot be mapped, is `b""`.

    Raises:
        DataError: it is missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", do="check the path; a token file is a pair .bin and .idx", file=path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", do="check the path and its permissions", file=path) from error


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """A mapped `.idx`. The arrays are views of the file: unaligned, untouched until used, so opening costs the same at any size.

    Single entries are read through memoryviews, three times as fast as numpy's scalars.
    """

    path: Path
    dtype: np.dtype
    lengths: np.ndarray  # int32, tokens of each sequence
    pointers: np.ndarray  # int64, byte offset of each sequence in the .bin
    document_indices: np.ndarray  # int64, one more than there are documents
    pointer: memoryview
    document_index: memoryview

    @property
    def num_documents(self) -> int:
        return len(self.document_indices) - 1

    @property
    def bin_size(self) -> int:
        """Bytes the `.bin` must have, by the last sequence."""
        return int(self.pointers[-1]) + int(self.lengths[-1]) * self.dtype.itemsize if len(self.lengths) else 0

    def document_start(self, document: int) -> int:
        """Token position at which a document starts; that of `num_documents` is the end of the stream."""
        sequence = self.document_index[document]
        return (self.pointer[sequence] if sequence < len(self.pointer) else self.bin_size) // self.dtype.itemsize

    def document_at(self, position: int) -> int:
        """The document that holds the token at `position`, by bisection in the mapped file."""
        return bisect_right(range(self.num_documents), position, key=self.document_start) - 1


def open_index(path: Path, mapped: mmap.mmap | bytes) -> IndexFile:
    """Reads the header and lays views over the rest, after checking in whole numbers that the file has exactly that size.

    Raises:
        DataError: no Megatron index, another version, no integer tokens, or counts that do not fit the file.
    """
    size = len(mapped)
    if size < HEADER.size:
        raise _damaged(path, f"has {size} bytes, less than the {HEADER.size} of a header")
    magic, version, code, sequences, indices = HEADER.unpack_from(mapped)
    if magic != MAGIC:
        raise _damaged(path, f"starts with {magic!r}, not with Megatron's {MAGIC!r}")
    if version != VERSION:
        raise _damaged(path, f"has version {version}, only {VERSION} exists")
    if code in FLOAT_DTYPES:
        raise DataError(f"{path} holds {FLOAT_DTYPES[code]} values, token ids are integers", do="give a token file", file=path)
    if code not in TOKEN_DTYPES:
        raise _damaged(path, f"has the unknown dtype code {code}")
    expected = HEADER.size + 12 * sequences + 8 * indices
    if expected != size or indices < 1:
        counts = f"{sequences} sequences and {indices} document indices (at least 1)"
        raise _damaged(path, f"has {size} bytes, but {counts} need {expected}")
    pointers_at = HEADER.size + 4 * sequences
    indices_at = pointers_at + 8 * sequences
    view = memoryview(mapped)
    return IndexFile(
        path=path,
        dtype=np.dtype(TOKEN_DTYPES[code]).newbyteorder("<"),
        lengths=np.frombuffer(mapped, "<i4", sequences, HEADER.size),
        pointers=np.frombuffer(mapped, "<i8", sequences, pointers_at),
        document_indices=np.frombuffer(mapped, "<i8", indices, indices_at),
        pointer=view[pointers_at:indices_at].cast("q"),
        document_index=view[indices_at:].cast("q"),
    )


def check_index(index: IndexFile, *, bin_size: int) -> None:
    """Checks every entry: an index that passes can be read from end to end without leaving the `.bin`.

    Args:
        bin_size: true size of the `.bin`, bytes.

    Raises:
        DataError: a length, pointer or document index is wrong, or the `.bin` is not exactly as long as the sum of the lengths.
    """
    end = 0  # bytes; stays below 2**63: at most 2**59 sequences fit a file, checked against bin_size chunk by chunk
    for first, lengths, pointers in _chunks(index):
        if lengths.min() < 0:
            raise _damaged(index.path, f"sequence {first + int(lengths.argmin())} has the length {lengths.min()}")
        ends = end + np.cumsum(lengths, dtype=np.int64) * index.dtype.itemsize
        starts = ends - lengths.astype(np.int64) * index.dtype.itemsize
        if not np.array_equal(starts, pointers):
            wrong = int(np.flatnonzero(starts != pointers)[0])
            what = f"points to byte {pointers[wrong]}, but the lengths before it end at {starts[wrong]}"
            raise _damaged(index.path, f"sequence {first + wrong} {what}")
        end = int(ends[-1])
        if end > bin_size:
            break
    if end != bin_size:
        raise bin_size_error(index, bin_size=bin_size, expected=end)
    _check_documents(index)


def bin_size_error(index: IndexFile, *, bin_size: int, expected: int) -> DataError:
    """The `.bin` was truncated, has grown, or belongs to another `.idx`."""
    file = index.path.with_suffix(".bin")
    word = "shorter" if bin_size < expected else "longer"
    return DataError(f"{file} has {bin_size} bytes, {word} than the {expected} of its .idx", do=REBUILD, file=file)


def _check_documents(index: IndexFile) -> None:
    indices, sequences = index.document_indices, len(index.lengths)
    if indices[0] != 0 or indices[-1] != sequences:
        raise _damaged(index.path, f"document indices run from {indices[0]} to {indices[-1]}, not from 0 to {sequences}")
    for first in range(0, len(indices) - 1, CHUNK):
        piece = indices[first : first + CHUNK + 1]  # one more: the step between chunks is checked too
        falls = np.flatnonzero(piece[1:] < piece[:-1])
        if len(falls):
            raise _damaged(index.path, f"document index {first + int(falls[0]) + 1} is smaller than the one before it")


def _chunks(index: IndexFile) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for first in range(0, len(index.lengths), CHUNK):
        yield first, index.lengths[first : first + CHUNK], index.pointers[first : first + CHUNK]


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}", do=REBUILD, file=path)
