"""Which corpora a config names and whether they fit its model, without reading a token: cheap on a login node. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

from ..conf.errors import Problem
from ..conf.schema import Config, DataConfig
from ..conf.sources import all_sources, sources, stages
from ..data.errors import DataError
from ..data.tokens.description import read_description
from ..data.tokens.token_file import check_files

PREPARE = "make it with `hexareme prepare input=<text> output=<folder>`, or correct the path"


def validation_source(data: DataConfig) -> tuple[str, str] | None:
    """Where validation reads.

    Returns:
        Path and part. None for `data.validation=none`, and for held_out where the first training corpus has held nothing out, as a
        Megatron prefix or a corpus prepared with held_out=0.

    Raises:
        DataError: the first training corpus is missing.
    """
    if data.validation == "none":
        return None
    if data.validation != "held_out":
        return data.validation, "train"
    path = sources(data.train)[0].path
    if not is_folder("data.train", path):
        return None
    part = read_description(path).parts.get("validation")
    return (path, "validation") if part is not None and part.tokens > 0 else None


def corpus_problems(config: Config) -> list[Problem]:
    """Vocabularies that the model's embedding cannot hold.

    Raises:
        DataError: a corpus is missing or empty.
    """
    named = [("data.train", path, "train") for path in all_sources(sources(config.data.train), stages(config.data.stages))]
    if held := validation_source(config.data):
        named.append(("data.validation", *held))
    return [problem for key, path, part in named for problem in corpus_rules(key, path, part, vocab_size=config.model.vocab_size)]


def corpus_rules(key: str, path: str, part: str, *, vocab_size: int) -> Iterator[Problem]:
    """One corpus: its files are there and whole in size, and its ids fit the model; a Megatron prefix' ids are checked at opening."""
    if not is_folder(key, path):
        check_files(path, part)
        return
    description = read_description(path)
    found = description.parts.get(part)
    if found is None or found.tokens == 0:
        raise DataError(f"{key}={path} holds no token in its part {part!r}", do="prepare it again from text that is not empty", file=path)
    check_files(path, part)
    if found.largest_id >= vocab_size:
        entries = description.tokenizer.vocab_size
        yield Problem("model.vocab_size", vocab_size, f"is too small for {path}: its largest id is {found.largest_id}, and its tokenizer "
                      f"has {entries} entries", f"set model.vocab_size={max(entries, found.largest_id + 1)}")


def is_folder(key: str, path: str) -> bool:
    """Whether a path is a corpus folder; False for a Megatron prefix.

    Raises:
        DataError: it is neither.
    """
    if Path(path).is_dir():
        return True
    if not Path(f"{path}.bin").is_file() or not Path(f"{path}.idx").is_file():
        raise DataError(f"{key}={path} is neither a corpus folder nor a prefix of {path}.bin and {path}.idx", do=PREPARE, file=path)
    return False
