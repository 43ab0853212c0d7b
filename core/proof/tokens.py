"""Samples that every rank of every layout can make by itself: a pure function of the sample's number. S sequence."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...data.objectives.objective import Objective, apply
from ...data.samples.batch import Batch, Sample, stack

NEW_DOCUMENT = 0.1  # chance of each token to open a document
FORETOLD = 0.5  # part of the tokens that follow from the one before, so that there is something to learn


def proof_batch(samples: Sequence[int], *, vocab_size: int, sequence_length: int, document_mask: bool, packed: bool = False,
                objective: Objective | None = None) -> Batch:
    """Documents of uneven length, and of each sample another share of tokens that count, from one token to nearly all.

    Args:
        samples: global numbers of the samples.
        vocab_size: ids are below it.
        sequence_length: tokens of a sample.
        document_mask: documents are told apart, and positions restart with each.
        packed: as rows of packed examples are: an example's last token is only a target, and what follows the last one is padding.
        objective: says what counts instead; None: each next token, and chance.
    """
    numbered = document_mask or objective is not None
    found = [_sample(index, vocab_size, sequence_length, numbered) for index in samples]
    if packed:
        found = [_packed(sample, vocab_size) for sample in found]
    if objective is None:
        return stack(found)
    whole = [replace(sample, loss_mask_S=np.ones(sequence_length, np.float32)) for sample in found]
    return apply(objective, stack(whole), seed=0, document_mask=document_mask)


def _sample(index: int, vocab_size: int, length: int, document_mask: bool) -> Sample:
    draw = np.random.default_rng([index, vocab_size, length])
    ids = (draw.random(length + 1) ** 2 * vocab_size).astype(np.int64)
    follows = draw.random(length + 1) < FORETOLD
    for place in range(1, length + 1):
        if follows[place]:
            ids[place] = (3 * ids[place - 1] + 1) % vocab_size
    opens = (draw.random(length) < NEW_DOCUMENT) & document_mask
    opens[0] = True
    places = np.arange(length)
    mask = draw.random(length) < draw.random()
    mask[draw.integers(length)] = True
    return Sample(tokens_S=ids[:-1], targets_S=ids[1:], documents_S=(np.cumsum(opens) - 1).astype(np.int32),
                  positions_S=places - np.maximum.accumulate(np.where(opens, places, 0)), loss_mask_S=mask.astype(np.float32),
                  index=index, source=0, document_ids=())


def _packed(sample: Sample, vocab_size: int) -> Sample:
    length = len(sample.tokens_S)
    draw = np.random.default_rng([sample.index, vocab_size, length, 1])
    used = int(draw.integers(length // 2, length + 1))
    ends = np.flatnonzero(np.diff(sample.documents_S))
    tokens_S, targets_S, mask_S = sample.tokens_S.copy(), sample.targets_S.copy(), sample.loss_mask_S.copy()
    documents_S, positions_S = sample.documents_S.copy(), sample.positions_S.copy()
    targets_S[ends] = draw.integers(0, vocab_size, len(ends))
    mask_S[draw.integers(used)] = 1
    tokens_S[used:], targets_S[used:], mask_S[used:] = 0, 0, 0
    documents_S[used:], positions_S[used:] = documents_S[used - 1] + 1, np.arange(length - used)
    return replace(sample, tokens_S=tokens_S, targets_S=targets_S, documents_S=documents_S, positions_S=positions_S, loss_mask_S=mask_S)
