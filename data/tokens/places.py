"""Where the files of a token stream lie: the spellings of its path. Reads no tokens."""

import os
import re
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from ..errors import DataError
from .description import FILE_NAME, PartDescription, read_description

RAW = re.compile(r"(?P<file>.+\.bin)@(?P<end>[0-9]{1,18})(:(?P<dtype>uint16|uint32))?")
SPELLINGS = "give a corpus folder, a prefix of .bin and .idx, a file as in train.bin@50256 of nanoGPT's, a pattern, or several joined by |"


@dataclass(frozen=True)
class RawFormat:
    """A file of ids and nothing else, as nanoGPT writes it.

    Args:
        end_of_document: the id that closes each document.
        dtype: uint16 or uint32 (numpy's name); a file with the header of llm.c says it itself.
    """

    end_of_document: int
    dtype: str = "uint16"


@dataclass(frozen=True)
class Place:
    """One token file.

    Args:
        prefix: path without `.bin`.
        description: its entry in `corpus.json`, if it is of a corpus.
        raw: how it is read, if it is no Megatron file.
    """

    prefix: Path
    description: PartDescription | None = None
    raw: RawFormat | None = None

    @property
    def bin(self) -> Path:
        """The file of the ids."""
        return self.prefix.with_name(f"{self.prefix.name}.bin")


def locate(path: str | os.PathLike[str], part: str = "train") -> list[Place]:
    """The token files of a stream, in its order.

    Args:
        path: a corpus folder; a Megatron prefix (without `.bin`); `<file>.bin@<id>` or `<file>.bin@<id>:uint32`: ids as nanoGPT writes
            them, with the id that closes a document; any of these with *, ? or [..]: all that match, by name; several of these, joined
            by |.
        part: "train" or "validation".

    Raises:
        DataError: nothing is there, or it has no such part.
    """
    if os.fspath(path) and Path(path).is_dir():
        return [_corpus(Path(path), part)]
    if part != "train":
        do = "give a corpus folder, or data.validation a prefix of its own"
        raise DataError(f"{path} is a Megatron prefix: it has no part {part!r}", do=do, file=path)
    return [place for piece in os.fspath(path).split("|") for place in _piece(piece.strip())]


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a corpus folder, and no spelling of token files."""
    return Path(path).is_dir()


def _piece(piece: str) -> list[Place]:
    if not piece:
        raise DataError("an empty path is no token file", do=SPELLINGS)
    if raw := RAW.fullmatch(piece):
        form = RawFormat(int(raw["end"]), raw["dtype"] or "uint16")
        return [Place(_without_bin(file), raw=form) for file in _matching(raw["file"])]
    if Path(piece).is_dir():
        return [_corpus(Path(piece), "train")]
    if Path(piece).is_file() and not Path(f"{piece}.bin").exists():  # a .bin, most likely, and only the user knows of which kind
        raise DataError(f"{piece} is a file, but neither a corpus folder nor a prefix of two files", do=SPELLINGS, file=piece)
    if not has_magic(piece) or Path(f"{piece}.bin").exists():
        return [Place(Path(piece))]
    folders = [folder for folder in glob(piece) if (Path(folder) / FILE_NAME).is_file()]
    found = [*folders, *(file.removesuffix(".bin") for file in glob(f"{piece}.bin") if not _is_array(Path(file)))]
    if not found:
        raise DataError(f"{piece} matches no corpus folder and no token file", do=SPELLINGS, file=piece)
    return [_corpus(Path(each), "train") if each in folders else Place(Path(each)) for each in sorted(found)]


def _is_array(file: Path) -> bool:
    """Whether it lies beside the tokens of a corpus, as `train.line.bin`."""
    part, _, array = file.stem.partition(".")
    if not array or not (file.parent / FILE_NAME).is_file():
        return False
    parts = read_description(file.parent).parts
    return part in parts and array in parts[part].arrays


def _matching(pattern: str) -> list[str]:
    if not has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    if not (found := sorted(glob(pattern))):
        raise DataError(f"{pattern} matches no file", do=SPELLINGS, file=pattern)
    return found


def _without_bin(file: str) -> Path:
    return Path(file.removesuffix(".bin"))


def _corpus(folder: Path, part: str) -> Place:
    parts = read_description(folder).parts
    if part not in parts:
        raise DataError(f"{folder} has no part {part!r}, only {sorted(parts)}", do="prepare it with that part", file=folder / FILE_NAME)
    return Place(folder / part, parts[part])
