"""The documents of a batch, one after the other. B samples, S sequence, D segments."""

from dataclasses import dataclass

import numpy as np

from ..samples.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where each document, or piece of one, lies; padding is left out."""

    rows_D: np.ndarray  # int64, in the batch
    begins_D: np.ndarray  # int64, first place in its row
    ends_D: np.ndarray  # int64, the place after its last

    @staticmethod
    def of(batch: Batch) -> "Segments":
        """Those of a batch whose documents are numbered, that is, read under a document mask."""
        documents_BS = batch.documents_BS
        opens_BS = np.ones(documents_BS.shape, dtype=bool)
        np.not_equal(documents_BS[:, 1:], documents_BS[:, :-1], out=opens_BS[:, 1:])
        length = documents_BS.shape[1]
        flat_D = np.flatnonzero(opens_BS)
        rows_D, begins_D = np.divmod(flat_D, length)
        ends_D = begins_D + np.diff(flat_D, append=documents_BS.size)
        whole = np.flatnonzero(batch.loss_mask_BS[rows_D, begins_D] > 0)
        return Segments(rows_D=rows_D[whole], begins_D=begins_D[whole], ends_D=ends_D[whole])


def ids_dtype(tokens_BS: np.ndarray, largest: int) -> np.dtype:
    """A type for the ids of a file and those that an objective adds."""
    return np.result_type(tokens_BS.dtype, np.min_scalar_type(largest))
