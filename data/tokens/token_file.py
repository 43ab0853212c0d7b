"""Opening token streams by their path: a corpus folder, Megatron's or nanoGPT's files, or several of them as one."""

import os
from collections.abc import Callable

from ..errors import DataError
from .description import FILE_NAME, unwatched
from .index_file import REBUILD
from .joined import JoinedTokens, Tokens
from .mapped_file import TokenFile
from .places import Place, locate
from .raw_file import check_raw, open_raw, verify_raw
from .stamp import Stamp, verify


def open_corpus(path: str | os.PathLike[str], part: str = "train", *, tick: Callable[[], None] = unwatched) -> Tokens:
    """Verifies a token stream (milliseconds when it was verified before) and opens it.

    Args:
        path: in one of the spellings of `places.locate`; only a corpus folder has another part than "train".
        part: "train" or "validation".
        tick: a sign of progress after each block that is read.

    Raises:
        DataError: missing, damaged or without that part.
    """
    files = [_open(place, tick) for place in locate(path, part)]
    return files[0] if len(files) == 1 else JoinedTokens(files)


def largest_id(path: str | os.PathLike[str], part: str = "train") -> int:
    """Largest token id, -1 without tokens: from `corpus.json`, else from the stamp, which may first have to be made.

    Raises:
        DataError: as `open_corpus`.
    """
    return max(place.description.largest_id if place.description else _stamp(place, unwatched).largest_id for place in locate(path, part))


def check_files(path: str | os.PathLike[str], part: str = "train") -> None:
    """Checks in milliseconds that all files are there and have the right sizes; reads no tokens.

    Raises:
        DataError: they are not.
    """
    for place in locate(path, part):
        if place.raw:
            check_raw(place.bin, place.raw)
            continue
        opened = TokenFile(place.prefix)
        if place.description and place.description.tokens != opened.num_tokens:
            message = f"{opened.prefix} has {opened.num_tokens} tokens, {FILE_NAME} says {place.description.tokens}"
            raise DataError(message, do=REBUILD, file=opened.prefix)


def _open(place: Place, tick: Callable[[], None]) -> TokenFile:
    if place.raw:
        return open_raw(place.bin, place.raw, tick)
    verify(place.prefix, place.description, tick)
    return TokenFile(place.prefix)


def _stamp(place: Place, tick: Callable[[], None]) -> Stamp:
    return verify_raw(place.bin, place.raw, tick)[0] if place.raw else verify(place.prefix, place.description, tick)
