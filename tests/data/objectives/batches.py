"""Batches of made documents, as `TrainingSet` reads them."""

import numpy as np
from hexareme.data.samples.batch import Batch
from hexareme.data.samples.dataset import TrainingSet
from hexareme.data.tokens.token_file import TokenFile

from ..token_files import write_tokens

END = 0  # closes each document; no text has it
TEXT = (10, 900)  # ids of texts; those from 900 on are free for sentinels
FIELDS = ("tokens_BS", "targets_BS", "documents_BS", "positions_BS", "loss_mask_BS", "samples_B", "sources_B", "starts_B",
          "num_documents_B", "documents_D")


def documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*rng.integers(*TEXT, rng.integers(1, longest)).tolist(), END] for _ in range(count)]


def training(folder, objective=None, *, length=64, longest=60, seed=3, mask=True, stages=()):
    prefix = folder / f"tokens{longest}"
    if not prefix.with_suffix(".bin").exists():
        write_tokens(prefix, documents(300, longest))
    return TrainingSet([(TokenFile(prefix), 1.0)], sequence_length=length, seed=seed, document_mask=mask, objective=objective,
                       stages=stages)


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def segments(batch: Batch):
    """Row, first place and place after the last of each document, the plain way."""
    for row, numbers in enumerate(batch.documents_BS.tolist()):
        for number in sorted(set(numbers)):
            places = [place for place, each in enumerate(numbers) if each == number]
            yield row, places[0], places[-1] + 1
