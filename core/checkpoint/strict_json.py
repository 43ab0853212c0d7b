"""JSON from outside, read strictly: the types are checked before anything is used. Pure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MOST_KEYS = 100_000  # of one object: a checkpoint has as many files as ranks
MOST_TENSORS = 200_000  # of a manifest; every parameter and moment is one
_TENSOR_KEY = "slices"


class DamagedError(CheckpointError):
    """The bytes of a checkpoint are not the ones that were written; an older one may serve."""


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN or Infinity, and not made to fill the memory."""
    try:
        value = json.loads(content, object_pairs_hook=_Objects().unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise damaged(path, "it holds no JSON object")
    return value


class _Objects:
    """Looks at each object as it is parsed, so that too many of them never come to be."""

    def __init__(self) -> None:
        self._tensors = 0

    def unique(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """One object.

        Raises:
            ValueError: a key stands twice, or there are too many.
        """
        if len(pairs) > MOST_KEYS:
            raise ValueError(f"an object has {len(pairs)} keys, more than {MOST_KEYS}")
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a key stands twice")
        self._tensors += _TENSOR_KEY in fields
        if self._tensors > MOST_TENSORS:
            raise ValueError(f"it lists more than {MOST_TENSORS} tensors")
        return fields


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def damaged(path: Path, what: str) -> DamagedError:
    """A damage report of one file."""
    return DamagedError(f"{path}: {what}", do="use another checkpoint, or a copy of this one", file=str(path))


class Fields:
    """Typed access to a JSON object from outside.

    Args:
        values: the object.
        path: its file, for messages.
    """

    def __init__(self, values: Any, path: Path) -> None:
        if not isinstance(values, dict):
            raise damaged(path, "it has a value where an object belongs")
        self.values: dict[str, Any] = values
        self.path = path

    def integer(self, key: str) -> int:
        """An integer from 0 to 2**63 - 1."""
        value = self.values.get(key)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self._wrong(key, "an integer that is not negative")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value = self.values.get(key)
        if not isinstance(value, str) or len(value) > 1000:
            raise self._wrong(key, "a short text")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A short list of integers from 0 to 2**63 - 1: the dims of a tensor."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) > 16 or not all(type(item) is int and 0 <= item < 2**63 for item in value):
            raise self._wrong(key, "a list of integers that are not negative")
        return tuple(value)

    def items(self, key: str) -> list[Any]:
        """A list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return value

    def _wrong(self, key: str, wanted: str) -> DamagedError:
        return damaged(self.path, f"{key} is {repr(self.values.get(key))[:80]}, not {wanted}")
