"""The keys of a schema as a flat table, and the nearest key to a mistyped one. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
LIST_ITEMS = {int: "whole numbers", float: "numbers", str: "texts"}


def table(schema: type[Any], prefix: str = "") -> dict[str, tuple[type[Any], Field[Any]]]:
    """Full key -> (type, dataclass field) for every leaf of a schema; nested dataclasses are sections."""
    rows: dict[str, tuple[type[Any], Field[Any]]] = {}
    hints = get_type_hints(schema)
    for entry in fields(schema):
        hint = hints[entry.name]
        if is_dataclass(hint):
            rows |= table(hint, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
        else:
            rows[f"{prefix}{entry.name}"] = (hint, entry)
    return rows


def sections_of(schema: type[Any]) -> list[str]:
    """The fields of a schema that are dataclasses themselves."""
    return [name for name, hint in get_type_hints(schema).items() if is_dataclass(hint)]


def is_dictionary(hint: Any) -> bool:
    """Whether a key holds free settings, any name below it being allowed."""
    return get_origin(hint) is dict


def leaves(value: Any, prefix: str, dictionaries: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """A nested mapping as (full key, value); what lies under a key of `dictionaries` stays whole."""
    if isinstance(value, Mapping) and prefix not in dictionaries:
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else str(name), dictionaries)
    else:
        yield prefix, value


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that a typing slip most likely meant; a bare last part (`tp`) finds its full key (`parallel.tp`)."""
    same_ending = [key for key in known if key.rpartition(".")[2] == word.rpartition(".")[2]]
    if len(same_ending) == 1:
        return same_ending[0]
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return close[0]
    endings = {key.rpartition(".")[2]: key for key in known}
    close = get_close_matches(word.rpartition(".")[2], endings, n=1, cutoff=0.6)
    return endings[close[0]] if close else None


def choices(hint: Any) -> list[str]:
    """What an enum key may be set to; empty for other types."""
    return [str(member.value) for member in hint] if isinstance(hint, type) and issubclass(hint, Enum) else []


def allowed(hint: Any, rule: Mapping[str, float]) -> str:
    """In words what a key takes, as in `a whole number, at least 1`."""
    if choices(hint):
        return f"one of {', '.join(choices(hint))}"
    words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
    bounds = [f"{words[bound]} {limit:.4g}" if isinstance(limit, float) else f"{words[bound]} {limit}" for bound, limit in rule.items()]
    kind = TYPE_NAMES.get(hint, "")
    if get_origin(hint) is list:
        kind = f"a list of {LIST_ITEMS.get(get_args(hint)[0], 'values')} in [brackets]"
    elif get_origin(hint) is dict:
        kind = "a dictionary in {braces}"
    return ", ".join(part for part in [kind, " and ".join(bounds)] if part) or "any value"
