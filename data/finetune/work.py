"""What a worker does with a chunk of fine-tuning records: find their form, render, encode, mask and cut them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..hashes import document_hash
from ..prepare.origin_list import OriginList
from ..prepare.tally import Result
from ..sources.chunk import Chunk
from .examples import Example, ExampleMaker, fit
from .held_out import HeldOut
from .reading import records, refuse
from .records import ClassKey, Label, class_key, conversation, labelled, preference
from .refusal import RecordRefusedError
from .settings import TaskRecipe, example_maker

Fates = dict[str, int]  # how many examples were "cut", how many "dropped" for their length


@dataclass
class Examples:
    """Examples end to end: ids and mask (tokens,), lengths (documents,), classes where there are any."""

    ids: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray
    labels: list[ClassKey]


@dataclass
class Made(Result):
    """The examples of a chunk by part, what happened to long ones, and where all came from, as in `prepare.encode.Encoded`."""

    parts: dict[str, Examples] = field(default_factory=dict)
    fates: Fates = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    origins: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Classes(Result):
    """The hash and the class of every text of a chunk."""

    texts: list[tuple[int, ClassKey]] = field(default_factory=list)


class ClassTask:
    """Looks at the labels only.

    Args:
        recipe: of a classification.
    """

    def __init__(self, recipe: TaskRecipe) -> None:
        self._recipe = recipe

    def __call__(self, chunk: Chunk) -> Classes:
        found = Classes(read=chunk.read)
        for record, file, line in records(chunk, found):
            try:
                text, label = labelled(record, self._recipe.text_key, self._recipe.label_key)
                found.texts.append((document_hash(text.encode()), class_key(label)))
            except RecordRefusedError as error:
                refuse(found, file, line, str(error))
            except UnicodeEncodeError:
                refuse(found, file, line, "lone_surrogate")
        return found


class ExampleTask:
    """Makes examples.

    Args:
        folder: the tokenizer as it was saved for the corpus.
        recipe: what of.
        held_out: where each goes.
        dtype: of the ids.
    """

    def __init__(self, folder: Path, recipe: TaskRecipe, held_out: HeldOut, dtype: np.dtype) -> None:
        self._recipe = recipe
        self._held_out = held_out
        self._dtype = dtype
        self._maker = example_maker(folder, recipe)

    def __call__(self, chunk: Chunk) -> Made:
        made = Made(read=chunk.read)
        parts: dict[str, tuple[list[Example], list[ClassKey]]] = {"train": ([], []), "validation": ([], [])}
        origins = OriginList(list(parts))
        for record, file, line in records(chunk, made):
            try:
                examples, label, value = make(record, self._maker, self._recipe)
                kept, fate = fit(examples, self._most, self._recipe.overlong)
            except RecordRefusedError as error:
                refuse(made, file, line, str(error))
                continue
            if fate:
                made.fates[fate] = made.fates.get(fate, 0) + 1
            if not kept:
                continue
            made.tally.document(sum(len(example.text.encode()) for example in kept), value)
            name = self._held_out.part(value, label)
            parts[name][0].extend(kept)
            parts[name][1].extend([] if label is None else [class_key(label)])
            origins.add(name, file, line, documents=len(kept))
        made.parts = {name: self._joined(*found) for name, found in parts.items()}
        made.files, made.origins = origins.files, origins.arrays()
        return made

    @property
    def _most(self) -> int:
        """Tokens of an example: where the next token is learned, the last one is no input."""
        return self._recipe.sequence_length + (self._recipe.kind != "classification")

    def _joined(self, examples: list[Example], labels: list[ClassKey]) -> Examples:
        nothing = np.empty(0, dtype=np.int64)
        ids = np.concatenate([nothing, *(example.ids for example in examples)]).astype(self._dtype)
        mask = np.concatenate([nothing, *(example.mask for example in examples)]).astype(np.uint8)
        return Examples(ids, mask, np.array([len(example.ids) for example in examples], dtype=np.int64), labels)


def make(record: Mapping[str, Any], maker: ExampleMaker, recipe: TaskRecipe) -> tuple[list[Example], Label | None, int]:
    """The examples of a record (two of a pair), its label, and the hash that says whether it is held out.

    Raises:
        RecordRefusedError: the record cannot be used.
    """
    if recipe.kind == "classification":
        text, label = labelled(record, recipe.text_key, recipe.label_key)
        example = maker.plain(text)
        return [example], label, document_hash(text.encode())
    examples = [maker.example(each) for each in (preference(record) if recipe.kind == "preference" else (conversation(record),))]
    return examples, None, document_hash("\0".join(example.text for example in examples).encode())
