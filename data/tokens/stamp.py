"""Verifies a token file once, and leaves a stamp so that the next open costs milliseconds.

The stamp says: files of this size, modification time and inode had this checksum and these ids. It lies beside the files, or where that
folder cannot be written, in the user's cache. A lost, stale or unreadable stamp only costs another verification.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from ..errors import DataError
from .description import BLOCK_BYTES, BlockHasher, FileDescription, PartDescription, describe_file, unwatched, write_atomically
from .index_file import REBUILD, IndexFile, check_index, map_file, open_index

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What changes when a file is written or replaced."""

    size: int
    mtime_ns: int
    inode: int

    @staticmethod
    def of(path: Path) -> "FileState":
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist", do="check the path; a token file is a pair .bin and .idx", file=path) from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", do="check the path and its permissions", file=path) from error
        return FileState(size=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """The result of one verification; `largest_id` is -1 where there is no token."""

    version: int
    bin: FileState
    idx: FileState
    checksum: str
    largest_id: int


def verify(prefix: Path, expected: PartDescription | None, tick: Callable[[], None] = unwatched) -> Stamp:
    """Returns the stamp of a token file, from an earlier verification if the files and what is expected of them are still the same.

    Args:
        prefix: path without `.bin`.
        expected: its entry in `corpus.json`, or None for a foreign Megatron file, of which only structure and ids can be checked.
        tick: a sign of progress after each block that is read.

    Raises:
        DataError: the files are missing, damaged, changed, or hold negative ids.
    """
    bin_state, idx_state = FileState.of(_bin(prefix)), FileState.of(_idx(prefix))
    for place in (beside(prefix), in_cache(prefix)):
        stamp = read_stamp(place)
        if not stamp or (stamp.bin, stamp.idx) != (bin_state, idx_state):
            continue
        if not expected or stamp.checksum == checksum(expected.bin, expected.idx):
            return stamp
    stamp = _verify_all(prefix, expected, (bin_state, idx_state), tick)
    leave_stamp((beside(prefix), in_cache(prefix)), stamp, prefix)
    return stamp


def checksum(bin_file: FileDescription, idx_file: FileDescription) -> str:
    """One XXH3-128 for a token file: of the block checksums of its two files."""
    return xxhash.xxh3_128_hexdigest(" ".join((*bin_file.blocks, "|", *idx_file.blocks)).encode())


def beside(prefix: Path) -> Path:
    """Where the stamp lies if the folder can be written."""
    return prefix.with_name(f"{prefix.name}.stamp.json")


def in_cache(prefix: Path) -> Path:
    """Where the stamp lies if not: the user's cache folder, named by the absolute prefix."""
    return cache_folder() / f"{xxhash.xxh3_128_hexdigest(bytes(prefix.absolute()))}.stamp.json"


def cache_folder() -> Path:
    """The user's, for what cannot lie beside the files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hexareme" / "stamps"


def _verify_all(prefix: Path, expected: PartDescription | None, states: tuple[FileState, FileState], tick: Callable[[], None]) -> Stamp:
    bin_state, idx_state = states
    index = open_index(_idx(prefix), map_file(_idx(prefix)))
    idx_file = describe_file(index.path, tick)
    if expected:
        _compare(_idx(prefix), idx_file, expected.idx)
    check_index(index, bin_size=bin_state.size)
    bin_file, largest_id = _scan_tokens(_bin(prefix), index, tick)
    if expected:
        _compare(_bin(prefix), bin_file, expected.bin)
        _compare_contents(prefix, index, largest_id, expected)
    if (FileState.of(_bin(prefix)), FileState.of(_idx(prefix))) != (bin_state, idx_state):
        raise DataError(f"{prefix} changed while it was being verified", do="wait until it is written, then start again", file=_bin(prefix))
    return Stamp(version=VERSION, bin=bin_state, idx=idx_state, checksum=checksum(bin_file, idx_file), largest_id=largest_id)


def _scan_tokens(path: Path, index: IndexFile, tick: Callable[[], None]) -> tuple[FileDescription, int]:
    """Reads the `.bin` once, block by block: its checksums and largest id.

    Raises:
        DataError: a negative id.
    """
    hasher, largest, position = BlockHasher(), -1, 0
    with path.open("rb") as stream:
        block = bytearray(BLOCK_BYTES)
        while count := stream.readinto(block):
            piece = memoryview(block)[:count]
            hasher.update(piece)
            tick()
            ids = np.frombuffer(piece[: count - count % index.dtype.itemsize], index.dtype)
            if not len(ids):
                break  # a rest shorter than a token: the file is growing under us, which the caller sees
            largest = max(largest, int(ids.max()))
            if ids.min() < 0:
                raise _negative(path, index, position + int(ids.argmin()), int(ids.min()))
            position += len(ids)
    return hasher.finish(), largest


def _negative(path: Path, index: IndexFile, position: int, token: int) -> DataError:
    document = index.document_at(position)
    where = f"document {document}, offset {position - index.document_start(document)}"
    return DataError(f"{path} holds the negative id {token} ({where})", do="tokenize again", file=path)


def _compare(path: Path, found: FileDescription, expected: FileDescription) -> None:
    if found.size != expected.size:
        word = "shorter" if found.size < expected.size else "longer"
        raise DataError(f"{path} has {found.size} bytes, {word} than the {expected.size} of corpus.json", do=REBUILD, file=path)
    for number, (mine, theirs) in enumerate(zip(found.blocks, expected.blocks, strict=True)):
        if mine != theirs:
            start = number * BLOCK_BYTES
            end = min(start + BLOCK_BYTES, found.size)
            raise DataError(f"{path} is damaged: bytes {start} to {end} do not have the checksum of corpus.json", do=REBUILD, file=path)


def _compare_contents(prefix: Path, index: IndexFile, largest_id: int, expected: PartDescription) -> None:
    found = {
        "documents": index.num_documents,
        "tokens": index.bin_size // index.dtype.itemsize,
        "dtype": index.dtype.name,
        "largest_id": largest_id,
    }
    for key, value in found.items():
        if value != getattr(expected, key):
            message = f"{prefix} has {key} {value}, corpus.json says {getattr(expected, key)}"
            raise DataError(message, do="run `hexareme prepare` again", file=prefix.parent / "corpus.json")


def leave_stamp(places: Sequence[Path], stamp: Stamp, what: Path) -> None:
    """Writes a stamp to the first place that takes it, or warns that none does.

    Args:
        places: in the order of preference.
        stamp: of a verification.
        what: was verified.
    """
    text, failure = json.dumps(asdict(stamp)) + "\n", None
    for place in places:
        try:
            if place != places[0]:
                place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
            return
        except OSError as error:  # a read-only or full file system
            failure = error
    message = "%s is verified at every start: no stamp can be left there or in %s (%s)"
    logging.getLogger(__name__).warning(message, what, places[-1], failure)


def read_stamp(place: Path) -> Stamp | None:
    """The stamp at this place; None where there is none that this version understands."""
    try:
        raw = json.loads(place.read_text(encoding="utf-8"))
        stamp = Stamp(**{**raw, "bin": FileState(**raw["bin"]), "idx": FileState(**raw["idx"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return stamp if stamp.version == VERSION and isinstance(stamp.largest_id, int) else None


def _bin(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.bin")


def _idx(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.idx")
