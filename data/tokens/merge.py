"""Token files made of others: merged, and in other formats. Bytes are moved by the kernel; memory stays the same at any size.

Everything is written under a name of its own and gets its final one when it is whole, a corpus' `corpus.json` last.
"""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .aside import AsideFile
from .description import (
    CorpusDescription,
    PartDescription,
    describe_file,
    read_description,
    sync_folder,
    unwatched,
    write_description,
)
from .index_writer import write_joined_index
from .joined import JoinedTokens, Tokens
from .mapped_file import TokenFile
from .merged_origins import merge_origins
from .places import locate
from .token_file import largest_id, open_corpus

PIECE = 2**26  # bytes that the kernel moves at a time, between signs of progress
CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)  # two file systems, or one that cannot


@dataclass(frozen=True)
class Merged:
    """What was written.

    Args:
        files: of it.
        documents, tokens: in all of them.
    """

    files: tuple[Path, ...]
    documents: int
    tokens: int


def to_megatron(path: str, output: Path, tick: Callable[[], None] = unwatched) -> Merged:
    """One `.bin` and `.idx` of all that a path names.

    Args:
        path: as `places.locate`.
        output: prefix without `.bin`; nothing may be there.
        tick: a sign of progress.

    Raises:
        DataError: an input is damaged, dtypes differ, or the output exists.
    """
    for suffix in (".bin", ".idx"):
        _refuse_existing(output.with_name(output.name + suffix))
    tokens = open_corpus(path, tick=tick)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = _write_part(_files(tokens), output, largest_id(path), tick)
    return Merged((output.with_name(f"{output.name}.bin"), output.with_name(f"{output.name}.idx")), part.documents, part.tokens)


def to_nanogpt(path: str, output: Path, tick: Callable[[], None] = unwatched) -> Merged:
    """The ids of all that a path names and nothing else, as nanoGPT reads them: uint16, or uint32 for what is int32 here.

    Args:
        path, tick: as `to_megatron`.
        output: a file; nothing may be there.

    Raises:
        DataError: as `to_megatron`; a dtype that nanoGPT does not have.
    """
    _refuse_existing(output)
    tokens = open_corpus(path, tick=tick)
    files = _files(tokens)
    if files[0].dtype.name not in ("uint16", "int32"):
        raise DataError(f"{path} holds {files[0].dtype.name} ids, nanoGPT reads uint16 and uint32", do="take target=megatron", file=path)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = AsideFile(output)
    try:
        _move_bytes(files, aside, tick)
        aside.sync()
        aside.commit()
    finally:
        aside.discard()
    sync_folder(output.parent)
    return Merged((output,), tokens.num_documents, tokens.num_tokens)


def to_corpus(path: str, output: Path, tick: Callable[[], None] = unwatched) -> Merged:
    """One corpus folder of several, each part of the same parts; all must have the same tokenizer.

    Args:
        path: corpus folders, as `places.locate`.
        output: a folder; nothing may be there.
        tick: a sign of progress.

    Raises:
        DataError: an input is no corpus folder, is damaged or is no text; tokenizers or dtypes differ; the output exists.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} exists", do="name a new folder", file=output)
    folders = _corpus_folders(path)
    descriptions = [read_description(folder) for folder in folders]
    _refuse_unlike(folders, descriptions)
    aside = output.with_name(f"{output.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        parts = {}
        for name in descriptions[0].parts:
            files = [file for folder in folders for file in _files(open_corpus(folder, name, tick=tick))]
            largest = max(description.parts[name].largest_id for description in descriptions)
            parts[name] = _write_part(files, aside / name, largest, tick)
        sources, arrays = merge_origins(folders, descriptions, aside, tick)
        parts = {name: replace(part, arrays=arrays.get(name, {})) for name, part in parts.items()}
        if (folders[0] / "tokenizer").is_dir():
            shutil.copytree(folders[0] / "tokenizer", aside / "tokenizer")
        write_description(aside, replace(descriptions[0], parts=parts, sources=sources))
        if output.exists():
            output.rmdir()
        aside.rename(output)
        sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    files_written = tuple(output / f"{name}{suffix}" for name in parts for suffix in (".bin", ".idx"))
    return Merged(files_written, sum(part.documents for part in parts.values()), sum(part.tokens for part in parts.values()))


def _write_part(files: Sequence[TokenFile], prefix: Path, largest: int, tick: Callable[[], None]) -> PartDescription:
    """Both files of one part; the `.idx` gets its name last, so a pair with one is whole."""
    bin_aside = AsideFile(prefix.with_name(f"{prefix.name}.bin"))
    try:
        idx_aside = AsideFile(prefix.with_name(f"{prefix.name}.idx"))
        try:
            _move_bytes(files, bin_aside, tick)
            write_joined_index(idx_aside.stream, [file.index for file in files])
            for aside in (bin_aside, idx_aside):
                aside.sync()
            part = PartDescription(
                documents=sum(file.num_documents for file in files), tokens=sum(file.num_tokens for file in files),
                dtype=files[0].dtype.name, largest_id=largest, bin=describe_file(bin_aside.path, tick),
                idx=describe_file(idx_aside.path, tick),
            )
            bin_aside.commit()
            idx_aside.commit()
        finally:
            idx_aside.discard()
    finally:
        bin_aside.discard()
    sync_folder(prefix.parent)
    return part


def _move_bytes(files: Sequence[TokenFile], aside: AsideFile, tick: Callable[[], None]) -> None:
    """The ids of all files end to end, from descriptor to descriptor."""
    target = aside.stream.fileno()
    for file in files:
        position, end = file.offset, file.offset + file.num_tokens * file.dtype.itemsize
        while position < end:
            count = _copy(file.descriptor, target, min(PIECE, end - position), position)
            if not count:
                raise DataError(f"{file.bin_path} was truncated while in use", do="copy it again from its source", file=file.bin_path)
            position += count
            tick()


def _copy(source: int, target: int, count: int, position: int) -> int:
    """By `copy_file_range`, which shares blocks where the file system can; else by `sendfile`."""
    try:
        return os.copy_file_range(source, target, count, position)
    except OSError as error:
        if error.errno not in CANNOT_COPY:
            raise
        return os.sendfile(target, source, position, count)


def _files(tokens: Tokens) -> list[TokenFile]:
    files = tokens.files if isinstance(tokens, JoinedTokens) else [tokens]
    unlike = next((file for file in files if file.dtype != files[0].dtype), None)
    if unlike is not None:
        message = f"{unlike.bin_path} holds {unlike.dtype.name} ids, {files[0].bin_path} {files[0].dtype.name}"
        do = "merge files of one dtype; data.train takes several of different ones as one stream"
        raise DataError(message, do=do, file=unlike.bin_path)
    return files


def _corpus_folders(path: str) -> list[Path]:
    places = locate(path)
    foreign = next((place for place in places if place.description is None), None)
    if foreign is not None:
        message = f"{foreign.prefix} is no corpus folder: nothing says which tokenizer wrote it"
        raise DataError(message, do="take target=megatron, or name corpus folders", file=foreign.prefix)
    return [place.prefix.parent for place in places]


def _refuse_unlike(folders: Sequence[Path], descriptions: Sequence[CorpusDescription]) -> None:
    for folder, description in zip(folders, descriptions, strict=True):
        if description.task.kind != "text":
            do = "merge its text and prepare that"
            raise DataError(f"{folder} is a corpus of the task {description.task.kind}, only text is merged", do=do, file=folder)
        if description.tokenizer != descriptions[0].tokenizer or _tokenizer_files(folder) != _tokenizer_files(folders[0]):
            message = f"{folder} has another tokenizer than {folders[0]}: {description.tokenizer} and {descriptions[0].tokenizer}"
            raise DataError(message, do="prepare all of them with tokenizer.kind=... tokenizer.path=<one of them>", file=folder)
        if description.parts.keys() != descriptions[0].parts.keys():
            message = f"{folder} has the parts {sorted(description.parts)}, {folders[0]} has {sorted(descriptions[0].parts)}"
            raise DataError(message, do="merge the token files alone: target=megatron and the prefixes <folder>/train", file=folder)


def _tokenizer_files(folder: Path) -> dict[str, str]:
    """Checksums of the files of a tokenizer, by name."""
    files = sorted(file for file in (folder / "tokenizer").rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): " ".join(describe_file(file).blocks) for file in files}


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise DataError(f"{output} exists", do="name a new output", file=output)
