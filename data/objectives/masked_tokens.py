"""Masked tokens: some tokens hidden, to be told from both sides. B samples, S sequence, D documents, T places that text has.

Devlin et al., "BERT: pre-training of deep bidirectional transformers for language understanding", NAACL 2019, section 3.1.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..order.permutation import mix_many
from ..samples.batch import Batch
from .draws import below, chances, draw, keys_of
from .segments import Segments, ids_dtype

MASKED, REPLACED = 0.8, 0.1  # of the chosen; the others stay what they are


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """The transform: in each document a share of the tokens, special ones never, is chosen; only these are targets, each in its own place.

    Args:
        mask: id that hides a token.
        special: ids that are neither chosen nor put in the place of others.
        vocab_size: ids that may take another's place are below.
        noise_density: share that is chosen, rounded in each document, at least one token.
    """

    mask: int
    special: tuple[int, ...]
    vocab_size: int
    noise_density: float

    @cached_property
    def ordinary(self) -> np.ndarray:
        """All ids but the special ones."""
        return np.setdiff1d(np.arange(self.vocab_size), np.array(self.special, dtype=np.int64))

    def __call__(self, batch: Batch, *, seed: int) -> Batch:
        """As `Objective.__call__`."""
        found = Segments.of(batch)
        tokens_BS = batch.tokens_BS.astype(ids_dtype(batch.tokens_BS, max(self.mask, self.vocab_size - 1)))  # a copy
        targets_BS, loss_mask_BS = tokens_BS.copy(), np.zeros_like(batch.loss_mask_BS)
        lengths_D = found.ends_D - found.begins_D
        documents_T = np.repeat(np.arange(len(lengths_D)), lengths_D)
        inside_T = np.arange(len(documents_T)) - np.repeat(np.cumsum(lengths_D) - lengths_D, lengths_D)
        places_T = (found.rows_D * tokens_BS.shape[1] + found.begins_D)[documents_T] + inside_T
        text = ~np.isin(tokens_BS.ravel()[places_T], self.special)
        documents_T, inside_T, places_T = documents_T[text], inside_T[text], places_T[text]
        keys_D = keys_of(batch.samples_B[found.rows_D], found.begins_D, seed=seed)
        keys_T = mix_many(keys_D[documents_T] + inside_T.astype(np.uint64))
        chosen = self._chosen(documents_T, draw(keys_T, 0), len(lengths_D))
        places, keys = places_T[chosen], keys_T[chosen]
        others = self.ordinary[below(keys, 2, np.full(len(keys), len(self.ordinary)))]
        chance, flat = chances(keys, 1), tokens_BS.reshape(-1)
        flat[places] = np.select((chance < MASKED, chance < MASKED + REPLACED), (self.mask, others), flat[places])
        loss_mask_BS.reshape(-1)[places] = 1
        return replace(batch, tokens_BS=tokens_BS, targets_BS=targets_BS, loss_mask_BS=loss_mask_BS)

    def _chosen(self, documents_T: np.ndarray, hashes_T: np.ndarray, documents: int) -> np.ndarray:
        """Indices of those with the smallest hashes of each document, as many as it has to have."""
        counts_D = np.bincount(documents_T, minlength=documents)
        wanted_D = np.minimum(counts_D, np.maximum(1, np.rint(counts_D * self.noise_density).astype(np.int64)))
        order_T = np.lexsort((hashes_T, documents_T))  # documents_T ascends: each document keeps its stretch
        ranks_T = np.arange(len(order_T)) - (np.cumsum(counts_D) - counts_D)[documents_T]
        return order_T[ranks_T < wanted_D[documents_T]]
