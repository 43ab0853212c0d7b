"""Writes Megatron's `.bin/.idx` as a stream: memory does not grow with the corpus, and a half-written file never has its final name."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..errors import DataError
from .aside import AsideFile
from .description import BLOCK_BYTES, BlockHasher, PartDescription, describe_file, sync_folder
from .index_file import HEADER, dtype_code
from .index_writer import complete_index, lengths_of

LONGEST = 2**31 - 1  # the .idx holds lengths as int32


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else int32: the two dtypes that Megatron's own tools write."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


@dataclass(frozen=True, kw_only=True)
class WriterPosition:
    """How far a `TokenFileWriter` is, all of it safe on the disk; plain values, so that it can be kept as JSON.

    `blocks`: checksums of the whole 16 MiB blocks of the `.bin`; `rest`: of what follows them.
    """

    documents: int
    tokens: int
    largest_id: int
    blocks: list[str]
    rest: str


class TokenFileWriter:
    """One token file in the making; use it as a context manager, so that a failure leaves nothing behind.

    The lengths go straight to their place in the `.idx`; pointers and document indices follow at the end, when their place is known.

    Args:
        prefix: path without `.bin`; its folder must exist.
        dtype: of the ids in the `.bin`, see `token_dtype`.
        start: where an interrupted writer goes on; all behind it is cut off.
        keep: a failure leaves the files, for a later `start`.

    Raises:
        ValueError: a dtype that Megatron does not know.
        DataError: another process is writing the same token file, or what lies there is not what `start` says.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        dtype: np.dtype | type[np.integer],
        *,
        start: WriterPosition | None = None,
        keep: bool = False,
    ) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        dtype_code(self.dtype)
        self._keep = keep
        self._hasher = BlockHasher(start.blocks if start else ())
        self._documents = start.documents if start else 0
        self._tokens = start.tokens if start else 0
        self._largest_id = start.largest_id if start else -1
        self._bin = AsideFile(self._final(".bin"), self._tokens * self.dtype.itemsize)
        try:
            self._idx = AsideFile(self._final(".idx"), HEADER.size + 4 * self._documents if start else 0)
        except BaseException:
            self._bin.discard(keep=keep)
            raise
        if not start:
            self._idx.stream.write(bytes(HEADER.size))
            return
        try:
            self._go_on(start)
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()  # after finish() there is nothing left to remove

    def add_document(self, ids: np.ndarray) -> None:
        """Appends one document of one sequence.

        Args:
            ids: shape (tokens,), any integer dtype.

        Raises:
            DataError: an id is negative or does not fit the dtype.
        """
        self.add_documents(ids, np.array([len(ids)]))

    def add_documents(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Appends many documents at once.

        Args:
            ids: shape (tokens,), the documents end to end, any integer dtype.
            lengths: shape (documents,), tokens of each; they add up to `len(ids)`.

        Raises:
            ValueError: the lengths do not add up.
            DataError: an id is negative or does not fit the dtype, or a document has 2^31 tokens or more.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        if int(lengths.sum()) != len(ids) or (len(lengths) and int(lengths.min()) < 0):
            raise ValueError(f"{len(lengths)} documents with {lengths.sum()} tokens in all, but {len(ids)} ids")
        if len(lengths) and int(lengths.max()) > LONGEST:
            raise DataError(f"a document has {lengths.max()} tokens, more than {LONGEST}", do="cut it into several", file=self.prefix)
        data = np.ascontiguousarray(self._checked(np.asarray(ids))).view(np.uint8).data
        self._bin.stream.write(data)
        self._hasher.update(data)
        self._idx.stream.write(lengths.astype("<i4").tobytes())
        self._documents += len(lengths)
        self._tokens += len(ids)

    def position(self) -> WriterPosition:
        """Makes everything so far safe on the disk.

        Returns:
            A `start` for a later writer.
        """
        self._bin.sync()
        self._idx.sync()
        return WriterPosition(
            documents=self._documents,
            tokens=self._tokens,
            largest_id=self._largest_id,
            blocks=self._hasher.blocks,
            rest=self._hasher.rest,
        )

    def finish(self) -> PartDescription:
        """Completes both files, syncs them and gives them their names; the `.idx` comes last, so a pair with one is whole.

        Returns:
            The entry for `corpus.json`.
        """
        try:
            self._bin.sync()
            complete_index(self._idx.stream, self.dtype, self._documents)
            self._idx.sync()
            description = PartDescription(
                documents=self._documents,
                tokens=self._tokens,
                dtype=self.dtype.name,
                largest_id=self._largest_id,
                bin=self._hasher.finish(),
                idx=describe_file(self._idx.path),
            )
            self._idx.final.unlink(missing_ok=True)  # an old index must not meet the new .bin
            self._bin.commit()
            self._idx.commit()
            sync_folder(self.prefix.parent)
        except BaseException:
            self.abort()
            raise
        return description

    def abort(self) -> None:
        """Closes the files and, unless told to keep it, removes what was written so far; does nothing after `finish`."""
        self._bin.discard(keep=self._keep)
        self._idx.discard(keep=self._keep)

    def _go_on(self, start: WriterPosition) -> None:
        """Reads back what decides the rest: the last, open block, and all lengths."""
        stream, whole = self._bin.stream, BLOCK_BYTES * len(start.blocks)
        stream.seek(whole)
        while data := stream.read(2**20):
            self._hasher.update(data)
        tokens = 0
        for lengths in lengths_of(self._idx.stream, self._documents):
            tokens += int(lengths.sum(dtype=np.int64))
        if self._hasher.blocks != list(start.blocks) or self._hasher.rest != start.rest or tokens != start.tokens:
            raise DataError(f"{self._bin.path} is not what was written", do="write it anew", file=self._bin.path)
        self._idx.stream.seek(0, os.SEEK_END)

    def _final(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        if ids.size == 0:
            return ids.astype(self.dtype)
        if ids.dtype.kind not in "iu":
            raise ValueError(f"token ids of dtype {ids.dtype} are not integers")
        smallest, largest = int(ids.min()) if ids.dtype.kind == "i" else 0, int(ids.max())
        if smallest < 0 or largest > np.iinfo(self.dtype).max:
            wrong = smallest if smallest < 0 else largest
            way = "write with the dtype of the vocabulary"
            raise DataError(f"token id {wrong} does not fit {self.dtype.name}", do=way, file=self.prefix)
        self._largest_id = max(self._largest_id, largest)
        return ids.astype(self.dtype, copy=False)
