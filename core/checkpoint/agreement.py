"""Whether a checkpoint's configuration agrees with the run that wants it. Pure."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .manifest import compact

ABSENT = "(not set)"


class Difference(NamedTuple):
    """One key whose values differ; `(not set)` where a side lacks it."""

    key: str
    saved: Any
    current: Any


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], allow: Collection[str] = ()) -> list[Difference]:
    """Compare two nested configurations field by field.

    Args:
        saved: of the checkpoint.
        current: of the run.
        allow: dotted keys, or sections, that may differ.

    Returns:
        The differences, by key.
    """
    before, now = _flat(saved), _flat(json.loads(compact(current)))  # through JSON, as the saved one went
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, ABSENT), now.get(key, ABSENT)
        same = old == new and isinstance(old, bool) == isinstance(new, bool)  # 1 is 1.0, but not true
        if not same and not any(key == free or key.startswith(f"{free}.") for free in allow):
            found.append(Difference(key, old, new))
    return found


def require_agreement(saved: Mapping[str, Any], current: Mapping[str, Any], *, allow: Collection[str], folder: Path) -> None:
    """Refuse a checkpoint of another configuration.

    Raises:
        CheckpointError: with every difference and the way to allow it.
    """
    found = differences(saved, current, allow)
    if found:
        listed = "; ".join(f"{key} was {old!r} and is {new!r}" for key, old, new in found)
        keys = ",".join(difference.key for difference in found)
        raise CheckpointError(
            f"{folder} was saved with another configuration: {listed}",
            do=f"restore the old values, or set checkpoint.allow_change=[{keys}]",
            file=str(folder),
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
