"""The unit of work: whole records, about 1 MiB of them, and the place where the next ones begin."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .document import Outcome

CHUNK = 1 << 20  # bytes of raw records


@dataclass(frozen=True)
class Place:
    """Between two records. Plain numbers, so that it can be written to a journal (`dataclasses.asdict`).

    Args:
        source: number of the source in the list.
        offset: bytes of the decompressed file before it; in tables: rows.
        line: number of the next line (row, record), from 1.
        member: byte of the file at which the compressed member begins that holds the place; reading starts there.
        member_offset: bytes of the decompressed file before that member.
        consumed: bytes of the file before it, as they lie on disk; only for progress.
    """

    source: int = 0
    offset: int = 0
    line: int = 1
    member: int = 0
    member_offset: int = 0
    consumed: int = 0


class Block(Protocol):
    """Raw records of one file; travels pickled to a worker, which looks at what they hold."""

    def documents(self) -> Iterator[Outcome]:
        """Exactly one outcome for each record."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Work for one worker.

    Args:
        blocks: records in their order.
        read: how many bytes of the input files they stand for (compressed, if those are).
        next: where the following chunk begins.
        size: bytes of the records themselves, as a worker gets them.
    """

    blocks: Sequence[Block]
    read: int
    next: Place
    size: int

    def documents(self) -> Iterator[Outcome]:
        """The outcome of each record."""
        for block in self.blocks:
            yield from block.documents()
