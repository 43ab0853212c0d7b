"""Whoever wants to see how far `prepare` is."""

from typing import Protocol


class Progress(Protocol):
    """Is told what happens."""

    def phase(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
        """A pass over `total_bytes` of files begins, or goes on behind `done_bytes`; a total of 0: work that is not counted in bytes."""

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        """So much more is done."""

    def note(self, line: str) -> None:
        """Something that the user should know."""


class NoProgress:
    """Shows nothing."""

    def phase(self, name: str, total_bytes: int, done_bytes: int = 0) -> None:
        pass

    def advance(self, input_bytes: int, documents: int, text_bytes: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass
