"""Which corpora a config names and whether they fit its model, without reading a token: cheap on a login node. Imports no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..conf.errors import Problem
from ..conf.objective_schema import ObjectiveName
from ..conf.schema import Config, DataConfig
from ..conf.sources import all_sources, sources, stages
from ..data.errors import DataError
from ..data.tokens.description import TaskDescription, read_description
from ..data.tokens.places import locate
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
    found = [problem for key, path, part in named for problem in corpus_rules(key, path, part, vocab_size=config.model.vocab_size)]
    return [*found, *task_rules(config, [(key, path) for key, path, _ in named])]


def task_of(path: str) -> TaskDescription:
    """What a corpus is for; a Megatron prefix is text.

    Raises:
        DataError: its description cannot be read.
    """
    return read_description(path).task if Path(path).is_dir() else TaskDescription()


def task_rules(config: Config, named: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    """Corpora of examples must be such as this release trains on, and packed for the model.

    Args:
        config: of the run.
        named: key and path of each corpus.
    """
    tasks = [(key, path, task_of(path)) for key, path in named]
    for key, path, task in tasks:
        if task.kind not in ("text", "chat"):
            yield Problem(key, path, f"is a corpus of task={task.kind}: the training head for it comes with a later release",
                          "train on a corpus of text or of task=chat")
        if task.kind == "chat" and task.sequence_length != config.model.sequence_length:
            yield Problem("model.sequence_length", config.model.sequence_length, f"is not that of {path}, whose rows were packed for "
                          f"{task.sequence_length} tokens", f"set model.sequence_length={task.sequence_length}, or prepare again with "
                          f"task.sequence_length={config.model.sequence_length}")
    kinds = sorted({task.kind for key, _, task in tasks if key == "data.train"})
    if kinds == ["chat", "text"]:
        yield Problem("data.train", [path for _, path in named], "mixes text with packed conversations", "train on one after the other")
    if "chat" in kinds and config.data.objective.name is not ObjectiveName.causal:
        yield Problem("data.objective.name", config.data.objective.name.value, "is not for packed conversations, whose answers are the "
                      "targets", "leave it out")
    if any(task.kind == "chat" for _, _, task in tasks) and not config.data.document_mask:
        yield Problem("data.document_mask", False, "lets examples that share a row attend to each other", "set data.document_mask=true")
    if "chat" in kinds and any(stage.sequence_length for stage in stages(config.data.stages)):
        yield Problem("data.stages", "sequence_length", "would cut packed examples", "leave sequence_length out of the stages")


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
    """Whether a path is a corpus folder; False for files without one: a Megatron prefix, and the other spellings of `places.locate`.

    Raises:
        DataError: nothing is there.
    """
    if Path(path).is_dir():
        return True
    for place in locate(path):
        needed = [place.bin] if place.raw or place.description else [place.bin, place.bin.with_suffix(".idx")]
        if not all(file.is_file() for file in needed):
            missing = " and ".join(map(str, needed))
            raise DataError(f"{key}={path} is neither a corpus folder nor a prefix of {missing}", do=PREPARE, file=path)
    return False
