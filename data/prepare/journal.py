"""How far the passes of `prepare` are, so that an interrupted one goes on there.

One JSON file in the staging folder, replaced as a whole every few seconds, after everything it speaks of is safe on the disk. What lies
behind the places it names, in whichever file, is cut off and done again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

from ..tokens.description import write_atomically

FILE = "journal.json"
FORMAT = 2  # of the journal and of everything else in the staging folder: raise it with any change
# What decides ids and texts besides the recipe: half a corpus of one version and half of another would be a third.
_DECIDING = ("sentencepiece", "tokenizers", "tiktoken", "datatrove", "trafilatura", "ftfy", "py3langid", "fasttext", "mwparserfromhell",
             "jinja2")


class StagingDamaged(Exception):
    """The staging folder is not what its journal says: begin anew."""


@dataclass(frozen=True)
class Begun:
    """A pass that was interrupted.

    Args:
        place: where in its input it goes on, plain values; None: it has not begun.
        read: bytes of the input before that.
        state: of what it has written, plain values; None: it has not begun.
    """

    place: dict[str, Any] | None
    read: int
    state: dict[str, Any] | None


class Journal:
    """The journal of one staging folder.

    Args:
        staging: the folder, which exists.
        made_of: inputs and recipe, plain values; an earlier journal counts only where they are equal.
    """

    def __init__(self, staging: Path, made_of: Mapping[str, Any]) -> None:
        self._file = staging / FILE
        self._made_of = _plain({"format": FORMAT, "versions": _versions(), "made_of": made_of})
        self._done: dict[str, Any] = {}
        self._begun: dict[str, Any] = {}
        self.why_anew = ""
        if self._file.exists():
            self._read()

    @property
    def is_empty(self) -> bool:
        """Nothing is done yet."""
        return not self._done and not self._begun

    def result(self, name: str) -> Any:
        """What a finished pass has given; None: it is not finished."""
        return self._done.get(name)

    def begun(self, name: str) -> Begun | None:
        """Where the pass was interrupted, if it was."""
        return Begun(**self._begun["at"]) if self._begun.get("pass") == name else None

    def save(self, name: str, at: Begun) -> None:
        """A pass is so far."""
        self._begun = {"pass": name, "at": vars(at)}
        self._write()

    def finish(self, name: str, result: Any) -> None:
        """A pass is done; `result`: plain values."""
        self._done[name] = _plain(result)
        self._begun = {}
        self._write()

    def _write(self) -> None:
        body = json.dumps({**self._made_of, "done": self._done, "begun": self._begun})
        write_atomically(self._file, f"{body}\n{_checksum(body)}\n")

    def _read(self) -> None:
        try:
            body, checksum = self._file.read_text(encoding="utf-8").splitlines()
            if _checksum(body) != checksum:
                raise ValueError
            found = json.loads(body)
            self._done, self._begun = found.pop("done"), found.pop("begun")
        except (OSError, ValueError, KeyError, AttributeError):
            self.why_anew = "its journal is damaged"
            return
        if found != self._made_of:
            self._done, self._begun = {}, {}
            self.why_anew = "it was made from another input, with other settings or with other versions"


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))


def _checksum(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _versions() -> dict[str, str]:
    found = {}
    for name in _DECIDING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found
