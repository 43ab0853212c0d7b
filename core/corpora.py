"""Whether the corpora of a config exist and fit its model, from `corpus.json` alone: cheap enough for a login node. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

from ..conf.errors import Problem
from ..conf.schema import Config
from ..conf.sources import sources
from ..data.description import read_description
from ..data.errors import DataError

PREPARE = "make it with `hexareme prepare input=<text> output=<folder>`, or correct the path"


def corpus_problems(config: Config) -> list[Problem]:
    """Vocabularies that the model's embedding cannot hold.

    Raises:
        DataError: a corpus is missing or has no part of the wanted kind.
    """
    named = [("data.train", source.path, "train") for source in sources(config.data.train)]
    if config.data.validation == "held_out":
        named.append(("data.validation", named[0][1], "validation"))
    elif config.data.validation != "none":
        named.append(("data.validation", config.data.validation, "train"))
    return [problem for key, path, part in named for problem in corpus_rules(config, key, path, part)]


def corpus_rules(config: Config, key: str, path: str, part: str) -> Iterator[Problem]:
    """One corpus against the model; a Megatron prefix has no description, its ids are checked when it is opened."""
    if not Path(path).is_dir():
        if not Path(f"{path}.bin").is_file() or not Path(f"{path}.idx").is_file():
            raise DataError(f"{key}={path} is neither a corpus folder nor a prefix of {path}.bin and {path}.idx", do=PREPARE, file=path)
        return
    description = read_description(path)
    if part not in description.parts:
        raise DataError(f"{key}: {path} has no part {part!r}", do="prepare it with held_out above 0, or set data.validation=none", file=path)
    largest, size = description.parts[part].largest_id, config.model.vocab_size
    if largest >= size:
        yield Problem("model.vocab_size", size, f"is too small for {path}: its largest id is {largest}, its tokenizer has "
                      f"{description.tokenizer.vocab_size} entries", f"set model.vocab_size={description.tokenizer.vocab_size}")
