"""Opens what a source names: a local file, or one behind a URL that fsspec knows."""

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from .source import Source

_READ_AHEAD = 1 << 18
_REMOTE_BLOCK = 8 << 20  # bytes of one request; the next one is under way while this one is read


def is_remote(path: str) -> bool:
    """Whether fsspec, and not the operating system, opens it."""
    return "://" in path


def open_source(source: "Source") -> BinaryIO:
    """The file, from its start."""
    if not is_remote(source.path):
        return open(source.path, "rb", buffering=_READ_AHEAD)
    from .remote import open_remote

    return open_remote(source.path, _REMOTE_BLOCK)
