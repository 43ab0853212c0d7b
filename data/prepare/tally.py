"""What was seen of the input: counts of records by what became of them, and the list of the bad ones."""

from dataclasses import dataclass, field

from ..hashes import HASHES
from ..sources.document import Rejected


@dataclass
class Tally:
    """Counts; `text_bytes` of UTF-8 and `smallest_hash` are of the documents, `skipped` and `causes` count records by cause."""

    records: int = 0
    documents: int = 0
    text_bytes: int = 0
    smallest_hash: int = HASHES
    skipped: dict[str, int] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> int:
        """Records with an empty text."""
        return self.skipped.get("empty", 0)

    @property
    def rejected(self) -> int:
        """Bad records."""
        return sum(self.causes.values())

    def skip(self, cause: str, count: int = 1) -> None:
        """Counts records that are whole but hold no document."""
        self.skipped[cause] = self.skipped.get(cause, 0) + count

    def reject(self, cause: str, count: int = 1) -> None:
        """Counts bad records."""
        self.causes[cause] = self.causes.get(cause, 0) + count

    def document(self, size: int, value: int) -> None:
        """Counts a document of so many bytes, with this hash."""
        self.documents += 1
        self.text_bytes += size
        self.smallest_hash = min(self.smallest_hash, value)

    def add(self, other: "Tally") -> None:
        """Joins the counts of a later chunk."""
        self.records += other.records
        self.documents += other.documents
        self.text_bytes += other.text_bytes
        self.smallest_hash = min(self.smallest_hash, other.smallest_hash)
        for cause, count in other.skipped.items():
            self.skip(cause, count)
        for cause, count in other.causes.items():
            self.reject(cause, count)


@dataclass
class Result:
    """What comes back for each chunk, whatever was done with it.

    Args:
        read: bytes of the input that it stands for.
        tally: counts.
        rejects: the bad records.
        damaged: the chunk came from our own staging folder and is not what was written there.
    """

    read: int = 0
    tally: Tally = field(default_factory=Tally)
    rejects: list[Rejected] = field(default_factory=list)
    damaged: bool = False
