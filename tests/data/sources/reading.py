"""Reads inputs to their end, as `prepare` does, without a worker between."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hexareme.data.sources.chunk import Chunk, Place
from hexareme.data.sources.document import Document, Rejected, Skipped
from hexareme.data.sources.find import find_sources
from hexareme.data.sources.read import read_chunks
from hexareme.data.sources.source import Source


@dataclass
class Read:
    """Everything that was in the inputs."""

    chunks: list[Chunk]

    def __post_init__(self):
        self.outcomes = [outcome for chunk in self.chunks for outcome in chunk.documents()]
        self.documents = [outcome for outcome in self.outcomes if isinstance(outcome, Document)]
        self.texts = [document.text for document in self.documents]
        self.rejects = [outcome for outcome in self.outcomes if isinstance(outcome, Rejected)]
        self.causes = Counter(reject.cause for reject in self.rejects)
        self.skipped = Counter(outcome.cause for outcome in self.outcomes if isinstance(outcome, Skipped))
        self.records = len(self.outcomes)


def sources_of(*inputs: Path | str | dict) -> list[Source]:
    return find_sources([entry if isinstance(entry, dict) else str(entry) for entry in inputs]).sources


def read(*inputs: Path | str | dict, text_key: str = "text", start: Place | None = None) -> Read:
    return Read(list(read_chunks(sources_of(*inputs), text_key=text_key, start=start)))
