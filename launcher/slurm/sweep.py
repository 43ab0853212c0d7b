"""`sweep=`: several runs of one config as one job array. Pure."""

from collections.abc import Iterator
from itertools import product

from ...conf.errors import ConfigError, Problem

MOST_RUNS = 200  # each is checked by itself, at about half a second; an array of Slurm's has 1,000 members at most
WAY = "write sweep='optimizer.learning_rate=1e-3,3e-4 train.seed=0,1'"


def members(sweep: str, *, name: str, directory: str) -> list[list[str]]:
    """The overrides of each run: every combination of the values, each in a folder of its own.

    Args:
        sweep: `key=value,value key=value,value`; empty: no sweep.
        name, directory: of the run without a sweep; members have `-<number>` after both.

    Raises:
        ConfigError: it is not of that form, or has more runs than an array may have.
    """
    axes = [axis(word) for word in sweep.split()]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise ConfigError([Problem("sweep", sweep, "names a key twice", WAY)])
    if {"run.name", "run.directory"} & set(keys):
        raise ConfigError([Problem("sweep", sweep, "names the run, and each member gets a name of its own", "leave run.* out of it")])
    count = 1
    for _, values in axes:
        count *= len(values)
    if count > MOST_RUNS:
        raise ConfigError([Problem("sweep", sweep, f"makes {count} runs", f"stay at {MOST_RUNS} or below")])
    return list(combinations(axes, name, directory)) if axes else []


def combinations(axes: list[tuple[str, list[str]]], name: str, directory: str) -> Iterator[list[str]]:
    """The last axis moves fastest."""
    for number, chosen in enumerate(product(*(values for _, values in axes))):
        yield [*(f"{key}={value}" for (key, _), value in zip(axes, chosen, strict=True)),
               f"run.name={name}-{number}", f"run.directory={directory.rstrip('/')}-{number}"]


def axis(word: str) -> tuple[str, list[str]]:
    """`key=a,b` -> the key and its values.

    Raises:
        ConfigError: it has no key, no value or an empty one.
    """
    key, _, text = word.partition("=")
    values = text.split(",")
    if not key or not all(values):
        raise ConfigError([Problem("sweep", word, "is not of the form key=value,value", WAY)])
    return key, values
