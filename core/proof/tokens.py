"""Samples that every rank of every layout can make by itself: a pure function of the sample's number. S sequence."""

from collections.abc import Sequence

import numpy as np

from ...data.samples.batch import Batch, Sample, stack

NEW_DOCUMENT = 0.1  # chance of each token to open a document
FORETOLD = 0.5  # part of the tokens that follow from the one before, so that there is something to learn


def proof_batch(samples: Sequence[int], *, vocab_size: int, sequence_length: int, document_mask: bool) -> Batch:
    """Documents of uneven length, and of each sample another share of tokens that count, from one token to nearly all.

    Args:
        samples: global numbers of the samples.
        vocab_size: ids are below it.
        sequence_length: tokens of a sample.
        document_mask: documents are told apart, and positions restart with each.
    """
    return stack([_sample(index, vocab_size, sequence_length, document_mask) for index in samples])


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
