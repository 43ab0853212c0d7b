"""Files of ids and nothing else: nanoGPT's `.bin`, with or without the header of llm.c.

The format has no index, so one is made of the end-of-document ids while the file is verified for the first time: Megatron's own `.idx`,
beside the file or in the user's cache, with a stamp of both. From then on the file is a token file like any other.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from ..errors import DataError
from .aside import AsideFile
from .description import BLOCK_BYTES, BlockHasher, describe_file, sync_folder
from .index_file import HEADER, REBUILD
from .index_writer import complete_index
from .mapped_file import TokenFile
from .places import RawFormat
from .stamp import VERSION, FileState, Stamp, cache_folder, checksum, leave_stamp, read_stamp

# llm.c's dev/data/data_common.py: 256 int32: magic, version, tokens; ids are uint16 (GPT-2) or uint32 (Llama 3)
LLM_C_HEADER = 1024
LLM_C_DTYPES = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
# Megatron has no code for uint32; ids from 2^31 on, which int32 would show as negative, are refused
STORED: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<i4")}
LONGEST = 2**31 - 1


def open_raw(path: Path, form: RawFormat, tick: Callable[[], None]) -> TokenFile:
    """Opens a file, after verifying and indexing it where that was not done before.

    Raises:
        DataError: missing, of no whole number of ids, without the end-of-document id, or with an id of 2^31 or more.
    """
    _, idx_path, offset = verify_raw(path, form, tick)
    return TokenFile(path.with_suffix(""), idx_path=idx_path, offset=offset)


def verify_raw(path: Path, form: RawFormat, tick: Callable[[], None]) -> tuple[Stamp, Path, int]:
    """As `stamp.verify`. Returns the stamp, where the index lies, and the bytes of the header. Raises as `open_raw`."""
    dtype, offset = check_raw(path, form)
    state = FileState.of(path)
    name = f"{path.name}.documents-{form.end_of_document}-{dtype.name}"
    own = xxhash.xxh3_128_hexdigest(bytes(path.absolute()))
    for idx_path in (path.with_name(f"{name}.idx"), cache_folder() / f"{own}.{name}.idx"):
        stamp = read_stamp(_stamp_path(idx_path))
        if stamp and idx_path.exists() and (stamp.bin, stamp.idx) == (state, FileState.of(idx_path)):
            return stamp, idx_path, offset
    try:
        idx_path = path.with_name(f"{name}.idx")
        stamp = _index(path, idx_path, form, (dtype, offset), tick)
    except OSError:  # a read-only or full file system
        idx_path = cache_folder() / f"{own}.{name}.idx"
        idx_path.parent.mkdir(parents=True, exist_ok=True)
        stamp = _index(path, idx_path, form, (dtype, offset), tick)
    if FileState.of(path) != state:
        raise DataError(f"{path} changed while it was being verified", do="wait until it is written, then start again", file=path)
    leave_stamp((_stamp_path(idx_path),), stamp, path)
    return stamp, idx_path, offset


def check_raw(path: Path, form: RawFormat) -> tuple[np.dtype, int]:
    """The dtype of the ids as they are read, and the bytes of the header; reads only that.

    Raises:
        DataError: missing, or no whole number of ids.
    """
    size, dtype, offset = FileState.of(path).size, form.dtype, 0
    with path.open("rb") as stream:
        start = np.frombuffer(stream.read(12).ljust(12, b"\0"), "<i4").tolist()
    if (start[0], start[1]) in LLM_C_DTYPES and size >= LLM_C_HEADER:
        dtype, offset = LLM_C_DTYPES[start[0], start[1]], LLM_C_HEADER
        expected = LLM_C_HEADER + start[2] * STORED[dtype].itemsize
        if size != expected:
            raise DataError(f"{path} has {size} bytes, its header says {expected}", do=REBUILD, file=path)
    if (size - offset) % STORED[dtype].itemsize:
        do = "name its dtype, as in train.bin@50256:uint32"
        raise DataError(f"{path} has {size} bytes, no whole number of {dtype} ids", do=do, file=path)
    return STORED[dtype], offset


def _index(path: Path, idx_path: Path, form: RawFormat, layout: tuple[np.dtype, int], tick: Callable[[], None]) -> Stamp:
    """Reads the file once: its index, checksums and largest id; `layout` is dtype and bytes of the header."""
    dtype, offset = layout
    aside = AsideFile(idx_path)
    try:
        aside.stream.write(bytes(HEADER.size))
        hasher, scan = BlockHasher(), _Scan(path, form.end_of_document)
        with path.open("rb") as stream:
            hasher.update(stream.read(offset))
            block = bytearray(BLOCK_BYTES)
            while count := stream.readinto(block):
                piece = memoryview(block)[:count]
                hasher.update(piece)
                aside.stream.write(scan.lengths(np.frombuffer(piece[: count - count % dtype.itemsize], dtype)).tobytes())
                tick()
        aside.stream.write(scan.rest().tobytes())
        complete_index(aside.stream, dtype, scan.documents)
        aside.sync()
        idx_file = describe_file(aside.path)
        aside.commit()
        sync_folder(idx_path.parent)
    finally:
        aside.discard()
    return Stamp(version=VERSION, bin=FileState.of(path), idx=FileState.of(idx_path), checksum=checksum(hasher.finish(), idx_file),
                 largest_id=scan.largest)


class _Scan:
    """Lengths of documents out of blocks of ids; each ends with its end-of-document id, the last one with the file."""

    def __init__(self, path: Path, end: int) -> None:
        self._path, self._end = path, end
        self._open = 0  # tokens of the document that goes on in the next block
        self.documents = 0
        self.largest = -1

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        if not len(ids):
            return np.zeros(0, dtype="<i4")
        if int(ids.min()) < 0:
            message = f"{self._path} holds an id of 2^31 or more"
            raise DataError(message, do="check its dtype: train.bin@<id> reads uint16, @<id>:uint32 uint32", file=self._path)
        self.largest = max(self.largest, int(ids.max()))
        ends = np.flatnonzero(ids == self._end) + 1
        found = np.diff(ends, prepend=-self._open)
        self._open = len(ids) - int(ends[-1]) if len(ends) else self._open + len(ids)
        return self._checked(found)

    def rest(self) -> np.ndarray:
        if not self.documents and self._open:
            message = f"{self._path} holds {self._open} ids, and none of them is {self._end}"
            raise DataError(message, do="name the id that closes its documents, as in train.bin@50256", file=self._path)
        found = self._checked(np.array([self._open] if self._open else [], dtype=np.int64))
        self._open = 0
        return found

    def _checked(self, found: np.ndarray) -> np.ndarray:
        if len(found) and int(found.max()) > LONGEST:
            do = "name the id that closes its documents"
            raise DataError(f"{self._path} has a document of {found.max()} tokens", do=do, file=self._path)
        self.documents += len(found)
        return found.astype("<i4")


def _stamp_path(idx_path: Path) -> Path:
    return idx_path.with_name(os.fspath(idx_path.name) + ".stamp.json")
