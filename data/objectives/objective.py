"""What a model is asked to predict: a change of the samples after they were read. None is the plain one, each next token."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from ..samples.batch import Batch


class Objective(Protocol):
    """Changes tokens, targets and loss mask of samples, each within its documents; shapes, documents and positions stay.

    What becomes of a sample is a function of the seed, its number and its tokens: the batch around it, the rank, and what was read before
    have no part in it. So nothing of an objective is stored, and a resumed run sees what an undisturbed one would.
    """

    def __call__(self, batch: Batch, *, seed: int) -> Batch:
        """A new batch; that of the argument, whose arrays may be shared, stays as it is.

        Args:
            batch: read under a document mask.
            seed: of the run.
        """


def apply(objective: Objective | None, batch: Batch, *, seed: int, document_mask: bool) -> Batch:
    """What an objective makes of a batch.

    Args:
        objective: None leaves it as it is.
        batch: read under a document mask, unless the objective is None.
        seed: of the run.
        document_mask: without it, the documents are forgotten afterwards, and positions count through.
    """
    if objective is None:
        return batch
    found = objective(batch, seed=seed)
    if document_mask:
        return found
    size, length = batch.tokens_BS.shape
    return replace(found, documents_BS=np.zeros((size, length), dtype=np.int32),
                   positions_BS=np.tile(np.arange(length, dtype=np.int32), (size, 1)))
