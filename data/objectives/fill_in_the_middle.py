"""Fill in the middle: a document's middle moved to its end, so that a model of next tokens learns to write it. B samples, S sequence.

Bavarian et al., "Efficient training of language models to fill in the middle", 2022, arXiv:2207.14255: prefix-suffix-middle, and
suffix-prefix-middle in the variant that lets both orders share a run; applied to the documents of a context (their context-level variant),
and cut between tokens, which needs no second tokenization.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..samples.batch import Batch
from .draws import below, chances, keys_of
from .segments import Segments, ids_dtype

MARKS = 3  # prefix, suffix, middle


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle:
    """The transform.

    A document of n places keeps them: its last three tokens before its end give way to the marks. One of fewer than four, its end not
    counted, stays as it is.

    Args:
        prefix, suffix, middle: ids of the marks before these parts.
        end_of_document: the id that closes a document and stays behind the middle; -1: not known.
        rate: chance of a document to be changed.
        spm_rate: chance of a changed one to have its suffix first.
        middle_only: in changed documents only the middle, and the end behind it, are targets; else all.
    """

    prefix: int
    suffix: int
    middle: int
    end_of_document: int
    rate: float
    spm_rate: float
    middle_only: bool

    def __call__(self, batch: Batch, *, seed: int) -> Batch:
        """As `Objective.__call__`."""
        found = Segments.of(batch)
        largest = max(self.prefix, self.suffix, self.middle)
        tokens_BS = batch.tokens_BS.astype(ids_dtype(batch.tokens_BS, largest))  # a copy
        loss_mask_BS = batch.loss_mask_BS.copy()
        keys_D = keys_of(batch.samples_B[found.rows_D], found.begins_D, seed=seed)
        closed_D = batch.tokens_BS[found.rows_D, found.ends_D - 1] == self.end_of_document
        kept_D = found.ends_D - found.begins_D - closed_D - MARKS  # tokens of the text that stay
        chosen = np.flatnonzero((kept_D >= 1) & (chances(keys_D, 0) < self.rate))
        keys_D, kept_D, closed_D = keys_D[chosen], kept_D[chosen], closed_D[chosen]
        cuts_D = np.sort(np.stack((below(keys_D, 1, kept_D + 1), below(keys_D, 2, kept_D + 1))), axis=0).T
        suffix_first_D = chances(keys_D, 3) < self.spm_rate
        for row, begin, kept, closed, (first, second), suffix_first in zip(
                found.rows_D[chosen].tolist(), found.begins_D[chosen].tolist(), kept_D.tolist(), closed_D.tolist(), cuts_D.tolist(),
                suffix_first_D.tolist(), strict=True):
            text = batch.tokens_BS[row, begin : begin + kept]
            last = begin + kept + MARKS
            self._write(tokens_BS[row, begin:last], text, first, second, suffix_first=suffix_first)
            if closed:
                tokens_BS[row, last] = self.end_of_document
            else:
                loss_mask_BS[row, last - 1] = 0  # what followed in the text does not follow its middle
            if self.middle_only:
                loss_mask_BS[row, begin : last - (second - first) - 1] = 0
                loss_mask_BS[row, last : last + closed] = 0  # after the end
        targets_BS = np.concatenate((tokens_BS[:, 1:], batch.targets_BS[:, -1:]), axis=1, dtype=tokens_BS.dtype)
        return replace(batch, tokens_BS=tokens_BS, targets_BS=targets_BS, loss_mask_BS=loss_mask_BS)

    def _write(self, out: np.ndarray, text: np.ndarray, first: int, second: int, *, suffix_first: bool) -> None:
        """`out` becomes the text [0, first) [first, second) [second, n) in its new order."""
        after = len(text) - second
        out[0] = self.prefix
        if suffix_first:
            out[1] = self.suffix
            out[2 : 2 + after] = text[second:]
            out[2 + after] = self.middle
            out[3 + after :] = text[:second]
            return
        out[1 : 1 + first] = text[:first]
        out[1 + first] = self.suffix
        out[2 + first : 2 + first + after] = text[second:]
        out[2 + first + after] = self.middle
        out[3 + first + after :] = text[first:second]
