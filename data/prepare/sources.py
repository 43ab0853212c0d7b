"""From files, folders and globs to a stream of raw records, in chunks of about 1 MiB that do not depend on who works on them.

Reading and decompressing happens here, in one process; what a record holds is looked at in the workers (`encode.py`).
"""

import glob
import gzip
import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PYTHON_STDLIB = "python_stdlib"
CHUNK = 1 << 20  # bytes of raw records

_READ = 1 << 18  # compressed bytes at a time
_BOM = b"\xef\xbb\xbf"
_LINE_SUFFIXES = (".jsonl", ".json", ".ndjson")
# What a folder holds beside text. Whoever names such a file itself has it read.
_NO_TEXT = frozenset((
    ".7z", ".a", ".avi", ".bin", ".bmp", ".bz2", ".class", ".dll", ".doc", ".docx", ".dylib", ".exe", ".gif", ".h5", ".ico", ".idx", ".jar",
    ".jpeg", ".jpg", ".m4a", ".mkv", ".model", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o", ".odt", ".ogg", ".onnx", ".otf", ".pdf",
    ".pkl", ".png", ".ppt", ".pptx", ".pt", ".pth", ".pyc", ".rar", ".safetensors", ".so", ".tar", ".tgz", ".tif", ".tiff", ".ttf", ".wav",
    ".webm", ".webp", ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".xz", ".zip",
))
_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}


@dataclass(frozen=True)
class Source:
    """A file to read; size in bytes and time of change tell whether it is still the same."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class JsonLines:
    """Whole lines of a file, each a JSON object."""

    file: str
    first_line: int
    data: bytes

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(line number from 1, the line) of each line."""
        lines = self.data.split(b"\n")
        if not lines[-1]:
            lines.pop()  # what follows the last newline
        return enumerate(lines, self.first_line)


@dataclass(frozen=True)
class Texts:
    """Documents as they are: a text file (line 1), or rows of a Parquet file; None is a null."""

    file: str
    first_line: int
    data: list[bytes | None]

    def records(self) -> Iterator[tuple[int, bytes | None]]:
        """(row number from 1, UTF-8 text) of each document."""
        return enumerate(self.data, self.first_line)


@dataclass(frozen=True)
class Chunk:
    """Work for one worker: records in their order, and how many bytes of the input files they stand for (compressed, if so)."""

    blocks: list[JsonLines | Texts]
    read: int


def find_sources(inputs: Sequence[str], *, left_out: Path | None = None) -> list[Source]:
    """The files behind `inputs`: each entry's in sorted order, each file once.

    Args:
        inputs: files, folders (all files below, but hidden ones and known binaries), globs (`**` goes through folders), or `python_stdlib`.
        left_out: a folder whose files do not count: an earlier output inside an input folder.

    Raises:
        DataError: an entry names no file.
    """
    found: dict[str, Source] = {}
    for entry in inputs:
        for path in _files(entry):
            real = os.path.realpath(path)
            if left_out is None or not Path(real).is_relative_to(left_out.resolve()):
                found.setdefault(real, file_source(path))
    if not found:
        raise DataError("input names no file", do="set input= to a file, a folder or a glob")
    return list(found.values())


def file_source(path: str | os.PathLike[str]) -> Source:
    """An existing file as it is now."""
    status = os.stat(path)
    return Source(os.fspath(path), status.st_size, status.st_mtime_ns)


def read_chunks(sources: Sequence[Source], *, text_key: str) -> Iterator[Chunk]:
    """All records of the files, in order, grouped into chunks of about 1 MiB; a longer record is a chunk of its own.

    Args:
        sources: as `find_sources` gives them.
        text_key: the column of the text in a Parquet file.

    Raises:
        DataError: a file cannot be read, is damaged or truncated, or is a Parquet file without that column of text.
    """
    blocks: list[JsonLines | Texts] = []
    size = read = 0
    for source in sources:
        for block, length, consumed in _blocks(source.path, text_key):
            blocks.append(block)
            size += length
            read += consumed
            if size >= CHUNK:
                yield Chunk(blocks, read)
                blocks, size, read = [], 0, 0
    if blocks:
        yield Chunk(blocks, read)


def _files(entry: str) -> list[str]:
    if entry == PYTHON_STDLIB:
        return _standard_library()
    path = os.path.expanduser(entry)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        files = _below(path)
        nothing = f"input folder {entry} holds no text file"
    else:
        files = sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
        nothing = f"input={entry} matches no file" if glob.has_magic(path) else f"input={entry} does not exist"
    if not files:
        raise DataError(nothing, do="check the path; quote a glob so that the shell leaves it alone", file=entry)
    return files


def _below(folder: str) -> list[str]:
    """All files below a folder, sorted; left out are hidden files and folders, such as .git, and images, archives and other binaries."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(where, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if os.path.isfile(file) and os.path.splitext(file)[1].lower() not in _NO_TEXT)


def _standard_library() -> list[str]:
    """The source of this Python's own library: real text on every machine, with nothing to download."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _STDLIB_LEFT_OUT]
        files += [os.path.join(where, name) for name in names if name.endswith(".py")]
    if not files:
        raise DataError(f"no source of the standard library in {root}", do="give another input", file=root)
    return sorted(files)


def _blocks(path: str, text_key: str) -> Iterator[tuple[JsonLines | Texts, int, int]]:
    """(block, its bytes, bytes of the file behind it)."""
    name = path.removesuffix(".gz").removesuffix(".zst").lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, text_key)
        elif name.endswith(_LINE_SUFFIXES):
            yield from _json_lines(path)
        else:
            yield _text(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or truncated: {error}", do="copy the file again from its source", file=path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", do="check the file and its permissions", file=path) from error


def _text(path: str) -> tuple[Texts, int, int]:
    parts, read = [], 0
    for data, consumed in _decompressed(path):
        parts.append(data)
        read += consumed
    text = b"".join(parts).removeprefix(_BOM)
    return Texts(path, 1, [text]), len(text), read


def _json_lines(path: str) -> Iterator[tuple[JsonLines, int, int]]:
    pending: list[bytes] = []
    size = consumed = 0
    line = 1

    def block(data: bytes) -> tuple[JsonLines, int, int]:
        return JsonLines(path, line, data.removeprefix(_BOM) if line == 1 else data), len(data), consumed

    for data, read in _decompressed(path):
        consumed += read
        size += len(data)
        end = data.rfind(b"\n") + 1
        if size < CHUNK or not end:
            pending.append(data)
            continue
        whole = b"".join([*pending, data[:end]])
        yield block(whole)
        line += whole.count(b"\n")
        pending, size, consumed = [data[end:]], len(data) - end, 0
    if rest := b"".join(pending):
        yield block(rest)


def _decompressed(path: str) -> Iterator[tuple[bytes, int]]:
    """(bytes, how many bytes of the file they took)."""
    with open(path, "rb") as raw:
        if path.endswith(".zst"):
            yield from _zstandard(raw)
            return
        stream = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        before = 0
        while data := stream.read(_READ):
            yield data, raw.tell() - before
            before = raw.tell()


def _zstandard(raw: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """As many frames as there are. The library's own reader takes a truncated frame for the end of the file."""
    from zstandard import ZstdDecompressor, ZstdError

    frame = None
    while compressed := raw.read(_READ // 16):  # small, because a block may come out thousands of times as large
        read = len(compressed)
        while compressed:
            frame = frame or ZstdDecompressor().decompressobj()
            try:
                data = frame.decompress(compressed)
            except ZstdError as error:
                raise EOFError(str(error)) from error
            compressed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            yield data, read
            read = 0
    if frame is not None:
        raise EOFError("the last frame is not complete")


def _parquet(path: str, text_key: str) -> Iterator[tuple[Texts, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            yield from _rows(file, path, text_key)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet file, or damaged: {error}", do="copy the file again from its source", file=path) from error


def _rows(file: "ParquetFile", path: str, text_key: str) -> Iterator[tuple[Texts, int, int]]:
    import pyarrow as pa

    columns = {field.name: field.type for field in file.schema_arrow}
    kind = columns.get(text_key)
    if kind is None:
        message = f"{path} has no column {text_key}; its columns are {', '.join(columns)}"
        raise DataError(message, do="set text_key= to the column of the text", file=path)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: column {text_key} is {kind}, not text", do="set text_key= to the column of the text", file=path)
    row, rows, size = 0, max(1, file.metadata.num_rows), os.path.getsize(path)
    for batch in file.iter_batches(batch_size=128, columns=[text_key], use_threads=False):
        # As bytes: a row that is not UTF-8 is one bad record, not the end of the run.
        data = batch.column(0).cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary()).to_pylist()
        consumed = size * (row + len(data)) // rows - size * row // rows
        yield Texts(path, row + 1, data), sum(len(text or b"") for text in data), consumed
        row += len(data)
