"""Finds everything that is wrong with the values of a composed config: missing, of the wrong type, out of range, unresolvable, secret."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from .errors import Problem, show
from .keys import allowed, choices, leaves, nearest, table

# `${name:...}` calls a resolver (oc.env reads secrets from the environment); `${section.key}` only repeats another key.
RESOLVER = re.compile(r"\$\{[^}]*:")


def forbidden(key: str, value: Any) -> Problem | None:
    """A value that would run something or read the environment; a config is text that decides, nothing else."""
    if any(part in ("_target_", "_partial_", "_recursive_", "_convert_") for part in key.split(".")):
        return Problem(key, value, "would make Hydra call a function", "leave it out: a config holds values only")
    if isinstance(value, str) and RESOLVER.search(value):
        return Problem(key, value, "uses a resolver, which could put a secret into config.yaml",
                       "write the value, or ${section.key} to repeat another key")
    if isinstance(value, list | tuple | Mapping):
        inner = enumerate(value) if isinstance(value, list | tuple) else value.items()
        return next((found for name, item in inner if (found := forbidden(f"{key}.{name}", item))), None)
    return None


def enum_name(hint: Any, value: Any) -> Any:
    """OmegaConf knows enum members by name only (`one_f_one_b`); the user writes the value (`1f1b`). Other values stay as they are."""
    if not choices(hint):
        return value
    return next((member.name for member in hint if isinstance(value, str) and member.value == value), value)


def blank(schema: type[Any]) -> DictConfig:
    """A typed config of a schema with its defaults; OmegaConf leaves a section without a default missing as a whole."""
    config = OmegaConf.structured(schema)
    hints = get_type_hints(schema)
    for entry in fields(schema):
        if is_dataclass(hints[entry.name]) and OmegaConf.is_missing(config, entry.name):
            config[entry.name] = blank(hints[entry.name])
    assert isinstance(config, DictConfig)
    return config


def misfit(structure: DictConfig, key: str, value: Any, schema: type[Any]) -> Problem | None:
    """Whether the schema refuses this value for this key by its name or its type.

    Args:
        structure: `blank(schema)`; it is not changed.
        key: full key; may lie below a dictionary key.
        value: plain value as parsed from YAML or an override.
        schema: the command's dataclass.
    """
    known = table(schema)
    if any(key.startswith(f"{name}.") and "dict" in str(hint) for name, (hint, _) in known.items()):
        return None
    if key not in known:
        guess = nearest(key, known)
        section = key in {name.rpartition(".")[0] for name in known}
        reason = "is a section, not a key" if section else "is not a known key"
        sections = ", ".join(sorted({name.split(".")[0] for name in known}))
        return Problem(key, value, reason, f"did you mean {guess}?" if guess else f"take one of {sections}")
    hint, entry = known[key]
    if isinstance(value, str) and "${" in value or value == "???":
        return None  # judged when it is resolved
    try:
        put(structure.copy(), key, value, schema)
    except OmegaConfBaseException:
        return Problem(key, value, f"must be {allowed(hint, entry.metadata.get('rule', {}))}", way_out(hint, value))
    return None


def put(config: DictConfig, key: str, value: Any, schema: type[Any]) -> None:
    """Sets one key.

    Raises:
        OmegaConfBaseException: the value is not of the key's type.
    """
    known = table(schema)
    plain = enum_name(known[key][0], value) if key in known else value
    OmegaConf.update(config, key, plain, merge=True, force_add=True)


def way_out(hint: Any, value: Any) -> str:
    """The nearest allowed choice of an enum key, or simply that the key must be set otherwise."""
    guess = nearest(str(value), choices(hint)) if choices(hint) else None
    return f"did you mean {guess}?" if guess else "set one of the allowed values"


def out_of_range(key: str, value: Any, hint: Any, rule: Mapping[str, float]) -> Problem | None:
    """A number outside of its rule; NaN and infinity are outside of every rule."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    good = math.isfinite(value) and (
        value >= rule.get("least", -math.inf) and value <= rule.get("most", math.inf)
        and value > rule.get("above", -math.inf) and value < rule.get("below", math.inf)
    )
    return None if good else Problem(key, value, f"must be {allowed(hint, rule)}", "set a value in this range")


def violations(config: DictConfig, schema: type[Any]) -> Iterator[Problem]:
    """Everything wrong with the values of a composed config; afterwards `OmegaConf.to_object` cannot fail.

    Args:
        config: composed and typed by the schema, interpolations not yet resolved.
        schema: the command's dataclass.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    for key, (hint, entry) in table(schema).items():
        section, _, name = key.rpartition(".")
        node = OmegaConf.select(config, section) if section else config
        refused = next((found for k, v in leaves(dig(raw, key), key) if (found := forbidden(k, v))), None)
        if refused:
            yield refused
        elif OmegaConf.is_missing(node, name):
            kind = allowed(hint, entry.metadata.get("rule", {}))
            yield Problem(key, "???", f"has no value ({entry.metadata.get('help', '')})", f"add {key}=<{kind}>")
        else:
            yield from judged(node, name, key, hint, entry.metadata.get("rule", {}))


def judged(node: DictConfig, name: str, key: str, hint: Any, rule: Mapping[str, float]) -> Iterator[Problem]:
    """Resolves one value and holds it against its rule; lists are judged number by number."""
    try:
        value = OmegaConf.to_container(node[name], resolve=True) if OmegaConf.is_config(node[name]) else node[name]
    except InterpolationToMissingValueError:
        return  # the key that it repeats is reported itself
    except OmegaConfBaseException as error:
        named = re.search(r"'([^']+)' not found", str(error))
        if named and named[1] not in str(node._get_node(name)):
            return  # it repeats a key that is reported itself
        yield Problem(key, show(node._get_node(name)), f"cannot be resolved: {str(error).splitlines()[0]}", "write the value itself")
        return
    for item in value if isinstance(value, list) else [value]:
        if found := out_of_range(key, item, hint, rule):
            yield found


def dig(tree: Any, key: str) -> Any:
    """The value at a full key of a nested plain mapping."""
    for name in key.split("."):
        tree = tree[name]
    return tree
